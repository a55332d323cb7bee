# SPDX-License-Identifier: Apache-2.0
"""Wide rows: limited, but not to a small top_k. A program a row.

Between two keys lies the least kept one: all above `over` are kept, none from `under` down is. Of a group the
largest logit and the mass are known, so how it races lies between two values; the few groups that may win are
read, and race with what they keep at least and at most. Usually that is enough: the group that wins with the
smaller mass against all others with the larger wins it wherever between the two keys the least kept one lies,
and so does a token of it above both. A row where it is not enough, or of which too little is known, is looked
at between two keys inside these: what lies above is summed, and what lies between is copied aside, to be
searched if it has room."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.noise import exponential
from sgl_kernels._triton.overlap import begin
from sgl_kernels._triton.sampling_draw import draw_member
from sgl_kernels._triton.sampling_guess import FAINT, by_groups, by_line, by_sample, sample_of
from sgl_kernels._triton.sampling_row import (
    EACH,
    INFINITY,
    NO_KEY,
    column_of,
    first_of,
    key_of,
    limits_of,
    logit_of,
    members,
    rounded_up,
    scale_of,
    wanted_of,
)
from sgl_kernels._triton.sampling_search import read_listed, search_tile, step
from sgl_kernels.sampling import ROWS, WIDE

LANES = 1024  # of the logits that are looked at, each to copy to places of its own
_LANES = tl.constexpr(LANES)
_EACH = tl.constexpr(LANES // (ROWS * WIDE))  # groups, a logit of which is in each lane
_RACING = tl.constexpr(16)  # groups that are read at once to race
_WIDE = tl.constexpr(WIDE)
_EVEN = tl.constexpr(1.0)  # powers of two, within which tokens lie about evenly


@triton.jit
def _measured(
    bounds_ptr, above_ptr, number_ptr, unit, under, over, few, many, little, much, top_k, wanted, tables,
    NT: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The two keys, and numbers and masses above each, after what was summed above the guessed bounds. unit
    [NT]: that of the masses of a table."""
    table = tl.arange(0, NT)
    for i in tl.static_range(2):
        place = (1 - i) * tables + table  # the upper bound first: the lower one may say nothing then
        bound = key_of(tl.load(bounds_ptr + 1 - i), SHIFT)
        number = tl.sum(tl.load(number_ptr + place, table < tables, other=0.0), 0).to(tl.int32)
        mass = tl.sum(unit * tl.load(above_ptr + place, table < tables, other=0.0), 0)
        if (under < bound) & (bound < over):
            under, over, few, many, little, much = step(
                under, over, few, many, little, much, bound, number, mass, top_k, wanted
            )
    return under, over, few, many, little, much


@triton.jit
def _between(
    x_ptr, under, over, few, many, little, much, top_k, wanted, top, scale, turn, vocab,
    SAMPLE: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Two keys, between which the least kept one should lie. Every other turn the middle and the upper end,
    as the sample may have missed what counts; that of keys if need be, which ends with neighbours."""
    high = logit_of(over, SHIFT)
    low = tl.minimum(tl.maximum(logit_of(under, SHIFT), top - FAINT / scale), high)
    mass_share = tl.where(wanted < INFINITY, (wanted - little) / tl.maximum(much - little, 1e-37), INFINITY)
    number = tl.maximum(many - few, 1)
    count_share = tl.where(top_k < vocab, (top_k - few).to(tl.float32) / number, INFINITY)
    if turn % 8 == 7:
        first, second = (under + (over.to(tl.int64) - under) // 2).to(tl.int32), over
    elif turn % 2 == 1:
        first, second = key_of(0.5 * low + 0.5 * high, SHIFT), over
    else:
        x = sample_of(x_ptr, vocab, SAMPLE)
        there = (x > low) & (x <= high)
        most, least = tl.max(tl.where(there, x, -INFINITY), 0), -tl.max(tl.where(there, -x, -INFINITY), 0)
        if most == least:  # as if all were equal
            first, second = key_of(most, SHIFT) - 1, key_of(most, SHIFT)
        else:
            if (high - low) * scale < _EVEN:
                low, high = by_line(low, high, number, mass_share, count_share)
            else:
                low, high, _slack = by_sample(x, low, high, scale, mass_share, count_share)
            first, second = key_of(low, SHIFT), key_of(high, SHIFT)
    return first, second


@triton.jit
def _list(list_ptr, values, chosen):
    """Writes the chosen values side by side; how many there are."""
    chosen = chosen.to(tl.int32)
    tl.debug_barrier()  # what was listed before has been read
    tl.store(list_ptr + tl.cumsum(chosen, 0) - 1, values, chosen > 0)
    tl.debug_barrier()
    return tl.sum(chosen, 0)


@triton.jit
def _look(
    x_ptr, list_ptr, dense_ptr, reading, low, high, top, scale, vocab, SLOTS: tl.constexpr,
    RUNS: tl.constexpr,
):  # fmt: skip
    """Of the groups whose first ids are listed: how many logits are above `high`, and their mass; that of
    those above `low`; how many lie between [_LANES], copied to dense [SLOTS, _LANES] as far as they fit."""
    lane = tl.arange(0, _LANES)
    place = lane  # the next of each lane
    above = tl.zeros((_LANES,), tl.int32)
    much, most = tl.zeros((_LANES,), tl.float32), tl.zeros((_LANES,), tl.float32)
    for start in range(0, reading, RUNS * _EACH):
        runs = tl.tuple([])  # all are on their way before the first is looked at
        for i in tl.static_range(RUNS):
            which = start + i * _EACH + tl.arange(0, _EACH)
            first = tl.multiple_of(tl.load(list_ptr + which, which < reading, other=vocab), _WIDE)
            ids = first[:, None] + members()[None, :]
            runs += (tl.load(x_ptr + ids, ids < vocab, other=-INFINITY),)
        for i in tl.static_range(RUNS):
            # The four logits that a thread reads from one address are of lanes a quarter apart: what is
            # written then lies side by side without a word between threads.
            x = tl.permute(tl.reshape(runs[i].to(tl.float32), (_LANES // 4, 4)), (1, 0))
            x = tl.reshape(x, (_LANES,))
            weight = tl.exp2((x - top) * scale)
            above += (x > high).to(tl.int32)
            much += tl.where(x > high, weight, 0.0)
            most += tl.where(x > low, weight, 0.0)
            taken = (x > low) & (x <= high)
            tl.store(dense_ptr + place, x, taken & (place < SLOTS * _LANES))
            place += tl.where(taken, _LANES, 0)
    return tl.sum(above, 0), tl.sum(much, 0), tl.sum(most, 0), place // _LANES


@triton.jit
def _search(
    dense_ptr, inside, under, over, above, mass, top_k, wanted, top, scale, SLOTS: tl.constexpr,
    SHIFT: tl.constexpr,
):  # fmt: skip
    """The largest key that is not kept, among what was copied."""
    slot, lane = tl.arange(0, SLOTS), tl.arange(0, _LANES)
    there = slot[:, None] < inside[None, :]
    tl.debug_barrier()
    x = tl.load(dense_ptr + slot[:, None] * _LANES + lane[None, :], there, other=-INFINITY).to(tl.float32)
    keys = tl.reshape(tl.where(there, key_of(x, SHIFT), NO_KEY), (SLOTS * _LANES,))
    weights = tl.reshape(tl.where(there, tl.exp2((x - top) * scale), 0.0), (SLOTS * _LANES,))
    number, between = tl.sum(inside, 0), tl.sum(weights, 0)
    return search_tile(keys, weights, under, over, number, between, above, mass, top_k, wanted)


@triton.jit
def _race(
    x_ptr, packed_ptr, list_ptr, best, masses, under, over, top, scale, row, rows, vocab, groups,
    NG: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The token that is drawn if all above `under` is kept, and whether it is drawn as well if only what is
    above `over` is. list [3, groups]: the groups that are read; as bits, their masses above each."""
    group = tl.arange(0, NG)
    noise = exponential(
        column_of(packed_ptr, 4, row, rows), column_of(packed_ptr, 5, row, rows), -1 - group
    )  # fmt: skip
    keys = key_of(best, SHIFT)
    surely = tl.where(keys > over, tl.exp2((best - top) * scale), 0.0)
    # A sum may be a little less than its largest term is by itself.
    may_win = (keys > under) & (masses / noise >= 0.999 * tl.max(surely / noise, 0))
    racing = _list(list_ptr, group, may_win)
    for start in range(0, racing, _RACING):
        there, some, weight, key = read_listed(
            x_ptr, list_ptr, start, racing, top, scale, vocab, SHIFT, _RACING
        )
        at_most = tl.sum(tl.where(key > under, weight, 0.0), 1)
        at_least = tl.sum(tl.where(key > over, weight, 0.0), 1)
        tl.store(list_ptr + groups + some, at_most.to(tl.int32, bitcast=True), there)
        tl.store(list_ptr + 2 * groups + some, at_least.to(tl.int32, bitcast=True), there)
    tl.debug_barrier()
    at_most = tl.load(list_ptr + groups + group, may_win, other=0).to(tl.float32, bitcast=True)
    at_least = tl.load(list_ptr + 2 * groups + group, may_win, other=0).to(tl.float32, bitcast=True)
    race = at_least / noise
    winner = tl.argmax(race, 0)
    others = tl.max(tl.where(group == winner, 0.0, at_most / noise), 0)
    token, key = draw_member(x_ptr, packed_ptr, winner, under, 0.0, top, scale, row, rows, vocab, SHIFT)
    return token, (under >= over) | ((others < tl.max(race, 0)) & (key > over))


@triton.jit(do_not_specialize=["rows"])
def _decide(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, bounds_ptr, above_ptr, number_ptr, list_ptr, dense_ptr,
    out_ptr, rows, vocab, tables, stride, NG: tl.constexpr, NT: tl.constexpr, SAMPLE: tl.constexpr,
    SLOTS: tl.constexpr, RUNS: tl.constexpr, SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """list [rows, 3, groups] and dense [rows, SLOTS, _LANES] are written over."""
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    _narrow, wide, top_k, top_p, min_p = limits_of(packed_ptr, row, rows, vocab)
    if wide:
        x_ptr += row * stride
        table, group = tl.arange(0, NT), tl.arange(0, NG)
        groups = tables * EACH
        list_ptr += row * 3 * groups
        dense_ptr += row * SLOTS * _LANES
        peaks = tl.load(peak_ptr + row * tables + table, table < tables, other=-INFINITY)
        top = tl.max(peaks, 0)
        token = -1
        if tl.abs(top) < INFINITY:
            scale = scale_of(packed_ptr, row)
            best = tl.load(best_ptr + row * groups + group, group < groups, other=-INFINITY)
            masses = tl.load(peak_ptr + row * tables + group // EACH, group < groups, other=-INFINITY)
            masses = tl.exp2((masses - top) * scale)
            masses *= tl.load(mass_ptr + row * groups + group, group < groups, other=0.0)
            total = tl.sum(masses, 0)
            wanted = wanted_of(top_p, total)
            nothing = key_of(top * 0.0 - INFINITY, SHIFT)  # of a token that is forbidden
            floor = nothing  # the largest key that min_p does not keep
            if min_p > 0.0:
                floor = key_of(tl.minimum(rounded_up(top + tl.log2(min_p) / scale, SHIFT), top), SHIFT) - 1
            # Above `over` lie `few` tokens of mass `little`, too few for either limit; above `under` lie
            # `many` of mass `much`, enough for one, or all there are.
            under, over = nothing, key_of(top, SHIFT)
            few, many, little, much = vocab * 0, vocab, total * 0.0, total
            known = (top_k >= vocab) & (top_p >= 1.0)  # enough to race
            if known:
                over = under
            else:
                if tl.load(bounds_ptr + row * 2) < INFINITY:
                    under, over, few, many, little, much = _measured(
                        bounds_ptr + row * 2, above_ptr + row * 2 * tables, number_ptr + row * 2 * tables,
                        tl.exp2((peaks - top) * scale), under, over, few, many, little, much, top_k, wanted,
                        tables, NT, SHIFT,
                    )  # fmt: skip
                    known = (under > nothing) & (few > 0)
            pending = True
            turn = 0
            while pending:
                if known:
                    token, decided = _race(
                        x_ptr, packed_ptr, list_ptr, best, masses, tl.maximum(under, floor),
                        tl.maximum(over, floor), top, scale, row, rows, vocab, groups, NG, SHIFT,
                    )  # fmt: skip
                    pending = not decided
                if pending:
                    if known:
                        first, second = _between(
                            x_ptr, under, over, few, many, little, much, top_k, wanted, top, scale, turn,
                            vocab, SAMPLE, SHIFT,
                        )  # fmt: skip
                        turn += 1
                    else:
                        low, high = by_groups(best, masses, top, scale, top_k, wanted, vocab, groups)
                        first, second = key_of(low, SHIFT) - 1, key_of(high, SHIFT)
                        known = True
                    second = tl.minimum(tl.maximum(second, under + 1), over)
                    first = tl.minimum(tl.maximum(first, under), second - 1)
                    reading = _list(list_ptr, first_of(group), key_of(best, SHIFT) > first)
                    above, mass, most, inside = _look(
                        x_ptr, list_ptr, dense_ptr, reading, logit_of(first, SHIFT), logit_of(second, SHIFT),
                        top, scale, vocab, SLOTS, RUNS,
                    )  # fmt: skip
                    number = above + tl.sum(inside, 0)
                    under, over, few, many, little, much = step(
                        under, over, few, many, little, much, second, above, mass, top_k, wanted
                    )
                    if over == second:
                        under, over, few, many, little, much = step(
                            under, over, few, many, little, much, first, number, most, top_k, wanted
                        )
                        if (under == first) & (tl.max(inside, 0) <= SLOTS):
                            under = _search(
                                dense_ptr, inside, under, over, above, mass, top_k, wanted, top, scale,
                                SLOTS, SHIFT,
                            )  # fmt: skip
                            over = under
                    if (over.to(tl.int64) - under <= 1) | (many - few <= 1):
                        over = under
        tl.store(out_ptr + row, token)
