# SPDX-License-Identifier: Apache-2.0
"""Looking for the least kept logit of a row: among a few logits that are at hand, or in all of the row.

The search holds two keys: the larger is kept by all that is known, the smaller is not; a line through the
numbers and masses from each on says where to look next. Knows nothing of how a token is then drawn."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.sampling_row import INFINITY, key_of, members_of

_AT_ONCE = tl.constexpr(16)  # groups that are read at once


@triton.jit
def kth_key(keys, k, under, over):
    """A key that at least k of the keys exceed, and not many more but for ties; `under` if fewer do."""
    number = tl.sum((keys > under).to(tl.int32), 0)
    while (over.to(tl.int64) - under > 1) & (number > k + k // 8):
        middle = (under + (over.to(tl.int64) - under) // 2).to(tl.int32)
        beyond = tl.sum((keys > middle).to(tl.int32), 0)
        enough = beyond >= k
        under, over = tl.where(enough, middle, under), tl.where(enough, over, middle)
        number = tl.where(enough, beyond, number)
    return under


@triton.jit
def copy_aside(
    x_ptr, list_ptr, dense_ptr, reading, under, over, vocab, ROOM: tl.constexpr, SHIFT: tl.constexpr
):  # fmt: skip
    """Copies the logits of the listed groups whose keys are above `under`, not above `over`, as many as have
    room; how many there are."""
    place = 0
    for start in range(0, reading, _AT_ONCE):
        which = start + tl.arange(0, _AT_ONCE)
        ids = members_of(tl.load(list_ptr + which, which < reading, other=0))
        there = (ids < vocab) & (which < reading)[:, None]
        x = tl.load(x_ptr + ids, there, other=-INFINITY)
        key = key_of(x.to(tl.float32), SHIFT)
        taken = there & (key > under) & (key <= over)
        order = tl.cumsum(taken.to(tl.int32), 1)
        number = tl.max(order, 1)
        to = place + (tl.cumsum(number, 0) - number)[:, None] + order - 1
        tl.store(dense_ptr + to, x, taken & (to < ROOM))
        place += tl.sum(number, 0)
    return place


@triton.jit
def read_listed(
    x_ptr, list_ptr, start, reading, top, scale, vocab, SHIFT: tl.constexpr, NUMBER: tl.constexpr
):
    """Of NUMBER listed groups from the one at `start` on: whether there is one, which it is, and the weight
    and the key of each of its members [NUMBER, GROUP]."""
    which = start + tl.arange(0, NUMBER)
    group = tl.load(list_ptr + which, which < reading, other=0)
    ids = members_of(group)
    x = tl.load(x_ptr + ids, ids < vocab, other=-INFINITY).to(tl.float32)
    return which < reading, group, tl.exp2((x - top) * scale), key_of(x, SHIFT)


@triton.jit
def masses_aside(
    x_ptr, list_ptr, masses_ptr, reading, under, over, min_p, top, scale, vocab, SHIFT: tl.constexpr
):  # fmt: skip
    """Writes the mass of the listed groups' tokens whose keys are above `under`, not above `over`, as
    bits."""
    for start in range(0, reading, _AT_ONCE):
        there, group, weight, key = read_listed(
            x_ptr, list_ptr, start, reading, top, scale, vocab, SHIFT, _AT_ONCE
        )
        weight = tl.where((key > under) & (key <= over) & (weight >= min_p), weight, 0.0)
        bits = tl.sum(weight, 1).to(tl.int32, bitcast=True)
        tl.store(masses_ptr + group, bits, there)


@triton.jit
def search_row(
    x_ptr, length, under, over, number, between, above, mass, top_k, wanted, top, scale,
    CHUNK: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The largest key that is known not to be kept, given that `under` is not, and that none is above `over`.

    Of the `length` logits here, `number` lie above `under` up to `over` and have the mass `between`; `above`
    of this `mass`, which lie above `over`, are kept. Those of them that are here are counted with the others.
    """
    if (above < top_k) & (mass < wanted):
        few, many, little, much = number * 0, number, between * 0.0, between
        limit, turn = over, 0
        while (over.to(tl.int64) - under > 1) & (many - few > 1):
            middle = _between(under, over, few, many, little, much, top_k - above, wanted - mass, turn)
            n, m = between_keys(x_ptr, length, middle, limit, top, scale, CHUNK, SHIFT)
            under, over, few, many, little, much = step(
                under, over, few, many, little, much, middle, n, m, top_k - above, wanted - mass
            )
            turn += 1
    else:
        under = over
    return under


@triton.jit
def search_tile(keys, weights, under, over, number, between, above, mass, top_k, wanted):
    """`search_row` among keys and weights that are at hand, none above `over`."""
    if (above < top_k) & (mass < wanted):
        few, many, little, much = number * 0, number, between * 0.0, between
        turn = 0
        while (over.to(tl.int64) - under > 1) & (many - few > 1):
            middle = _between(under, over, few, many, little, much, top_k - above, wanted - mass, turn)
            n = tl.sum((keys > middle).to(tl.int32), 0)
            m = tl.sum(tl.where(keys > middle, weights, 0.0), 0)
            under, over, few, many, little, much = step(
                under, over, few, many, little, much, middle, n, m, top_k - above, wanted - mass
            )
            turn += 1
    else:
        under = over
    return under


@triton.jit
def step(under, over, few, many, little, much, middle, n, m, top_k, wanted):
    """The two ends of a search, and the numbers and masses above each, after a look at `middle`."""
    stays = (n < top_k) & (m < wanted)
    over, under = tl.where(stays, middle, over), tl.where(stays, under, middle)
    few, many = tl.where(stays, n, few), tl.where(stays, many, n)
    little, much = tl.where(stays, m, little), tl.where(stays, much, m)
    return under, over, few, many, little, much


@triton.jit
def _between(under, over, few, many, little, much, top_k, wanted, turn):
    """Where a line through both ends has what is wanted; every other turn the middle."""
    part = (much - wanted) / tl.maximum(much - little, 1e-37)
    part = tl.maximum((many - top_k).to(tl.float32) / (many - few), part)
    part = tl.where(turn % 2 == 0, tl.minimum(tl.maximum(part, 0.02), 0.98), 0.5)
    span = over.to(tl.int64) - under
    step = tl.minimum(tl.maximum((span.to(tl.float32) * part).to(tl.int64), 1), span - 1)
    return (under + step).to(tl.int32)


@triton.jit
def between_keys(x_ptr, length, under, over, top, scale, CHUNK: tl.constexpr, SHIFT: tl.constexpr):
    """How many of the first `length` logits have keys above `under`, not above `over`, and their mass."""
    count = tl.zeros((CHUNK,), tl.int32)
    mass = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, length, CHUNK):
        at = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + at, at < length, other=-INFINITY).to(tl.float32)
        key = key_of(x, SHIFT)
        inside = (at < length) & (key > under) & (key <= over)
        count += inside.to(tl.int32)
        mass += tl.where(inside, tl.exp2((x - top) * scale), 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0)
