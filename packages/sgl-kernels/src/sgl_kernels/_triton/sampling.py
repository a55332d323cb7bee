# SPDX-License-Identifier: Apache-2.0
"""Sampling in two kernels; in five, of which two read the logits, where some row keeps many tokens.

`_statistics` reads all: of each group its largest logit and its probability. `_finish` holds the two races.
A row with a small top_k is narrow: what it keeps lies in the groups of the top_k largest maxima, which
`_finish` reads again. Rows that are limited in other ways are wide:

- `_bracket` guesses two logits between which the least kept one lies: it knows the largest of each group, and
  a few tokens of each stand for the others.
- `_collect` reads the tables that reach up to the lower of the two: what lies above the upper one is summed,
  what lies between them is copied aside.
- `_finish_wide` verifies the guess with the exact sums, searches what was copied for the least kept logit
  (or, where the guess was wrong, the whole row), and holds the races.

The guess decides how long a row takes, never what is kept. Sums are made in an order that depends on the row
alone. A table is a program's work; a logit's key is an integer that orders like it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.noise import exponential
from sgl_kernels.sampling import COLDEST, COLUMNS, LEAST, NARROW, ROWS, WIDE, SamplingParameters


class Shape(NamedTuple):
    """What the kernels do at once, as measured on an H200."""

    warps: int = 1  # of a program of `_statistics`
    finish_warps: int = 8
    chunk: int = 1024  # logits that a search of the whole row looks at at once
    rounds: int = 18  # places where `_bracket` looks
    bracket_warps: int = 4
    collect_warps: int = 1
    wide_warps: int = 16
    room: int = 16384  # logits that may be copied of a wide row
    narrow_room: int = 2048  # and of a narrow one


SHAPE = Shape()
_LEAST_GROUPS = 1024  # that `_bracket` has in a tile, so that eight of them have as many tokens
_LOOKED_AT = tl.constexpr(4)  # tokens of each group that stand for the others
_LOG2E = tl.constexpr(1.4426950408889634)
_COLDEST = tl.constexpr(COLDEST)
_LEAST = tl.constexpr(LEAST)
_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_NARROW = tl.constexpr(NARROW)
_WIDE = tl.constexpr(WIDE)
_EACH = tl.constexpr(COLUMNS // WIDE)  # groups of a table
_TABLE = tl.constexpr(ROWS * COLUMNS)
_GROUP = tl.constexpr(ROWS * WIDE)
_AT_ONCE = tl.constexpr(16)  # groups of a narrow row that are read at once
_DEVIATIONS = tl.constexpr(5.0)  # of the guess's estimates
_INFINITY = tl.constexpr(float("inf"))
_NEAREST = tl.constexpr(0x34000000)  # the bits of 1.2e-7, the least distance from the top that is looked at
_FARTHEST = tl.constexpr(0x7F800000)  # those of infinity


@triton.jit
def _statistics(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, vocab, tables, stride,
    HEATED: tl.constexpr, MASSES: tl.constexpr,
):  # fmt: skip
    """best, mass [rows, groups]; peak [rows, tables]: the largest of a table, to which its masses relate."""
    row = (tl.program_id(0) // tables).to(tl.int64)
    table = tl.program_id(0) % tables
    ids = table * _TABLE + tl.arange(0, _ROWS)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    x = tl.load(x_ptr + row * stride + ids, ids < vocab, other=-_INFINITY).to(tl.float32)
    x = tl.where(x == x, x, _INFINITY)  # the row of either has no token
    best = tl.max(tl.reshape(tl.max(x, 0), (_EACH, _WIDE)), 1)
    peak = tl.max(best, 0)
    group = (row * tables + table) * _EACH + tl.arange(0, _EACH)
    tl.store(best_ptr + group, best)
    tl.store(peak_ptr + row * tables + table, peak)
    if MASSES:
        scale = _LOG2E
        if HEATED:
            scale = _scale(packed_ptr, row)
        columns = tl.sum(tl.exp2((x - tl.where(peak == -_INFINITY, 0.0, peak)) * scale), 0)
        tl.store(mass_ptr + group, tl.sum(tl.reshape(columns, (_EACH, _WIDE)), 1))


@triton.jit
def _outwards(bound, UP: tl.constexpr, dtype: tl.constexpr):
    """The nearest number of this dtype that is not below the bound (UP), or not above it.

    Logits are compared with bounds as values and as keys of their dtype, which must say the same.
    """
    digits = (
        0.00390625 if dtype == tl.bfloat16 else 0.00048828125
    )  # half a step of its digits, or a whole one
    step = tl.maximum(tl.minimum(tl.abs(bound), 3e38) * digits, 3e-8)
    found = bound.to(dtype).to(tl.float32)
    for i in tl.static_range(1, 3):  # twice where the dtype is rounded to by cutting
        further = (bound + i * step if UP else bound - i * step).to(dtype).to(tl.float32)
        wrong = found < bound if UP else found > bound
        found = tl.where(wrong, further, found)
    return found


@triton.jit
def _bracket(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, bounds_ptr, rows, vocab, tables, stride,
    NG: tl.constexpr, ROUNDS: tl.constexpr,
):  # fmt: skip
    """bounds [rows, 3]: none below the first is kept, all from the second up are, we hope; the largest."""
    row = tl.program_id(0).to(tl.int64)
    _narrow, wide, top_k, top_p, min_p = _limits(packed_ptr, row, rows, vocab)
    group = tl.arange(0, NG)
    groups = tables * _EACH
    best = tl.load(best_ptr + row * groups + group, group < groups, other=-_INFINITY)
    top = tl.max(best, 0)
    low = _INFINITY
    high = _INFINITY
    if wide & (tl.abs(top) < _INFINITY):
        scale = _scale(packed_ptr, row)
        x_ptr += row * stride
        peak = tl.exp2((best - top) * scale)
        whole = tl.load(peak_ptr + row * tables + group // _EACH, group < groups, other=-_INFINITY)
        whole = tl.exp2((whole - top) * scale)
        whole *= tl.load(mass_ptr + row * groups + group, group < groups, other=0.0)
        wanted = _wanted(top_p, tl.sum(whole, 0))
        count = tl.where(top_k < vocab, top_k.to(tl.float32), _INFINITY)

        # Which row of its table we look at changes from group to group; the largest is known and left out.
        first = _first(group)
        ids = (first + group * 5 % _ROWS * _COLUMNS)[:, None] + tl.arange(0, _LOOKED_AT)[None, :]
        some = tl.load(x_ptr + ids, ids < vocab, other=-_INFINITY).to(tl.float32)
        seen = (ids < vocab) & (some < best[:, None])
        weight = tl.where(seen, tl.exp2((some - top) * scale), 0.0)
        rest = tl.maximum(whole - peak, 0.0)
        # A token that has much of what is left stands for itself only: it is left to the hidden ones.
        seen = seen & (weight <= tl.sum(rest, 0) * (1.0 / 64))
        number = tl.maximum(tl.sum(tl.sum(seen.to(tl.float32), 1), 0), 1.0)
        usual = 3.0 / number * _GROUP * tl.sum(tl.sum(tl.where(seen, weight, 0.0), 1), 0)
        hidden = tl.maximum(rest - usual, 0.0)
        opened = tl.full((NG,), -1, tl.int32)
        i = 0
        while (i < NG // _GROUP) & (tl.max(hidden, 0) > 0.0):
            worst = tl.argmax(hidden, 0)
            opened = tl.where(group // _GROUP == i, worst, opened)
            seen = seen & (group != worst)[:, None]
            rest = tl.where(group == worst, 0.0, rest)
            hidden = tl.where(group == worst, 0.0, hidden)
            i += 1
        ids = _first(opened) + group % _GROUP // _WIDE * _COLUMNS + group % _WIDE
        known = (opened >= 0) & (ids < vocab)
        member = tl.load(x_ptr + ids, known, other=-_INFINITY).to(tl.float32)
        known = known & (member < tl.load(best_ptr + row * groups + opened, known, other=-_INFINITY))
        member = tl.where(known, member, -_INFINITY)
        member_mass = tl.exp2((member - top) * scale)

        some = tl.where(seen, some, -_INFINITY)
        number = tl.maximum(tl.sum(tl.sum(seen.to(tl.float32), 1), 0), 1.0)
        stands_for = tl.maximum(vocab - groups, 1) / number
        mass = tl.where(seen, weight, 0.0)
        unit = tl.sum(rest - hidden, 0) / tl.maximum(tl.sum(tl.sum(mass, 1), 0), 1e-37)
        mass *= unit
        all_mass = tl.maximum(tl.sum(tl.sum(mass, 1), 0), 1e-37)
        all_square = tl.sum(tl.sum(mass * mass, 1), 0)

        # Distances from the top, as bits: up to `sure` all are kept, from `lost` on none is. First we look at
        # four times the distance of the least of the groups' best, then nearer.
        farthest = 4 * (top - tl.min(tl.where(best > -_INFINITY, best, top), 0))
        farthest = tl.maximum(farthest, 1e-6).to(tl.int32, bitcast=True)
        sure, not_sure = tl.full((), _NEAREST, tl.int32), tl.full((), _FARTHEST, tl.int32)
        not_lost, lost = sure, not_sure
        for i in range(ROUNDS):
            at = tl.where(i % 2 == 0, not_lost + (lost - not_lost) // 2, sure + (not_sure - sure) // 2)
            at = tl.where(i < 2, tl.maximum(farthest - i * (4 << 23), _NEAREST), at)
            value = top - at.to(tl.float32, bitcast=True)
            here = tl.exp2((value - top) * scale)
            reached, member_over = best >= value, member >= value
            over = some >= value
            # Two numbers in one: those that stand for others, and those that do not.
            numbers = tl.sum(over.to(tl.int32), 1)
            numbers = tl.sum(numbers + 65536 * (reached.to(tl.int32) + member_over.to(tl.int32)), 0)
            over_mass = tl.where(over, mass, 0.0)
            mass_over = tl.sum(tl.sum(over_mass, 1), 0)
            square_over = tl.sum(tl.sum(over_mass * over_mass, 1), 0)
            exact_over = tl.where(reached, peak, 0.0) + tl.where(member_over, member_mass, 0.0)
            exact_over = tl.sum(exact_over, 0)
            hidden_over = tl.sum(tl.where(reached, hidden, 0.0), 0)
            share = tl.minimum(mass_over / all_mass, 1.0)
            below = share * share * tl.maximum(all_square - square_over, 0.0)
            margin = _DEVIATIONS * tl.sqrt((1 - share) * (1 - share) * square_over + below)
            margin += _DEVIATIONS * _DEVIATIONS / 2 * unit * here
            estimate = (numbers & 65535) * stands_for
            spread = estimate * stands_for * tl.maximum(1 - estimate / vocab, 0.0)
            number_margin = _DEVIATIONS * tl.sqrt(spread)
            number_over = estimate + (numbers >> 16)
            mass_over += exact_over
            is_lost = (number_over - number_margin >= count) | (mass_over - margin >= wanted) | (here < min_p)
            number_over += number_margin + _DEVIATIONS * _DEVIATIONS / 2 * stands_for
            mass_over += margin + hidden_over
            is_sure = (number_over <= count) & (mass_over < wanted) & (here >= min_p)
            lost = tl.where(is_lost, tl.minimum(lost, at), lost)
            not_lost = tl.where(is_lost, not_lost, tl.maximum(not_lost, at))
            sure = tl.where(is_sure, tl.maximum(sure, at), sure)
            not_sure = tl.where(is_sure, not_sure, tl.minimum(not_sure, at))
        low = top - lost.to(tl.float32, bitcast=True)
        high = tl.where(sure > _NEAREST, top - sure.to(tl.float32, bitcast=True), _INFINITY)
    low = _outwards(low, False, x_ptr.dtype.element_ty)
    high = _outwards(high, True, x_ptr.dtype.element_ty)
    tl.store(bounds_ptr + row * 3, tl.minimum(low, high))
    tl.store(bounds_ptr + row * 3 + 1, high)
    tl.store(bounds_ptr + row * 3 + 2, top)


@triton.jit
def _collect(
    x_ptr, packed_ptr, best_ptr, bounds_ptr, aside_ptr, sums_ptr, above_ptr, found_ptr, rows, vocab, tables,
    stride, VECTOR: tl.constexpr,
):  # fmt: skip
    """sums [rows, groups]: the mass above the bracket; above [rows, tables]: how many that is; found [rows,
    tables, columns]: how many of a column are between; aside [rows, tables, ROWS, columns]: those, first."""
    # The last rows are those that the cache still has.
    row = (rows - 1 - tl.program_id(0) // tables).to(tl.int64)
    table = tl.program_id(0) % tables
    low, high = tl.load(bounds_ptr + row * 3), tl.load(bounds_ptr + row * 3 + 1)
    if low < _INFINITY:
        column = tl.arange(0, _COLUMNS)
        place = row * tables + table
        best = tl.load(best_ptr + place * _EACH + column // _WIDE)
        mass = tl.zeros((_COLUMNS,), tl.float32)
        number = tl.zeros((_COLUMNS,), tl.int32)
        above = 0
        if tl.max(best, 0) >= low:
            top, scale = tl.load(bounds_ptr + row * 3 + 2), _scale(packed_ptr, row)
            ids = table * _TABLE + tl.arange(0, _ROWS)[:, None] * _COLUMNS + column[None, :]
            inside = ids < vocab
            x = tl.load(x_ptr + row * stride + ids, inside, other=-_INFINITY)
            value = x.to(tl.float32)
            sure = inside & (value >= high)
            mass = tl.sum(tl.where(sure, tl.exp2((value - top) * scale), 0.0), 0)
            above = tl.sum(tl.sum(sure.to(tl.int32), 0), 0)
            between = inside & (value >= low) & (value < high)
            order = tl.cumsum(between.to(tl.int32), 0)
            number = tl.max(order, 0)
            to = (order - 1) * _COLUMNS + column[None, :]
            # The hint says more than is true, to keep the layout of the load. No store becomes wider by it,
            # since each has a mask of its own.
            to = tl.max_contiguous(to, (1, VECTOR))
            tl.store(aside_ptr + place * _TABLE + to, x, between)
        group = place * _EACH + tl.arange(0, _EACH)
        tl.store(sums_ptr + group, tl.sum(tl.reshape(mass, (_EACH, _WIDE)), 1))
        tl.store(above_ptr + place, above)
        tl.store(found_ptr + place * _COLUMNS + column, number.to(tl.int8))


@triton.jit
def _finish(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, list_ptr, dense_ptr, out_ptr, rows, vocab, tables,
    stride, DRAWS: tl.constexpr, LIMITS: tl.constexpr, NG: tl.constexpr, NT: tl.constexpr,
    CHUNK: tl.constexpr, ROOM: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """All rows but wide ones. list [rows, 2, groups]: the groups that are read of a narrow row; masses."""
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    table = tl.arange(0, NT)
    peaks = tl.load(peak_ptr + row * tables + table, table < tables, other=-_INFINITY)
    top = tl.max(peaks, 0)
    token = -1
    wide = False
    if LIMITS:
        narrow, wide, top_k, top_p, min_p = _limits(packed_ptr, row, rows, vocab)
    if (tl.abs(top) < _INFINITY) & (not wide):
        cold = True
        if DRAWS:
            cold = _column(packed_ptr, 0, row, rows).to(tl.float32, bitcast=True) <= 0.0
        if cold:
            every = tl.argmax((peaks == top).to(tl.int32), 0) * _TABLE + tl.arange(0, _TABLE)
            is_top = tl.load(x_ptr + every, every < vocab, other=-_INFINITY).to(tl.float32) == top
            token = tl.min(tl.where(is_top, every, vocab - 1), 0)
        elif DRAWS:
            scale = _scale(packed_ptr, row)
            group = tl.arange(0, NG)
            groups = tables * _EACH
            exists = group < groups
            kept = tl.load(peak_ptr + row * tables + group // _EACH, exists, other=-_INFINITY)
            kept = tl.exp2((kept - top) * scale)
            kept *= tl.load(mass_ptr + row * groups + group, exists, other=0.0)
            floor = tl.full((), -2147483648, tl.int32)  # the largest key that is known not to be kept
            if LIMITS:
                if narrow:
                    wanted = _wanted(top_p, tl.sum(kept, 0))
                    best = tl.load(best_ptr + row * groups + group, exists, other=-_INFINITY)
                    floor = _kth(
                        _key(best, SHIFT), top_k, _key(top * 0.0 - _INFINITY, SHIFT), _key(top, SHIFT)
                    )
                    reaches = (_key(best, SHIFT) > floor).to(tl.int32)
                    list_ptr += row * 2 * groups
                    dense_ptr += row * ROOM
                    tl.store(list_ptr + tl.cumsum(reaches, 0) - 1, group, reaches > 0)
                    tl.debug_barrier()
                    number = _copy(x_ptr, list_ptr, dense_ptr, tl.sum(reaches, 0), floor, vocab, ROOM, SHIFT)
                    tl.debug_barrier()
                    if number <= ROOM:
                        _n, between = _beyond(dense_ptr, number, floor, top, scale, 256, SHIFT)
                        floor = _search(
                            dense_ptr, number, floor, _key(top, SHIFT), number, between, 0, 0.0, top_k,
                            wanted, top, scale, 256, SHIFT,
                        )  # fmt: skip
                    else:
                        number, between = _beyond(x_ptr, vocab, floor, top, scale, CHUNK, SHIFT)
                        floor = _search(
                            x_ptr, vocab, floor, _key(top, SHIFT), number, between, 0, 0.0, top_k, wanted,
                            top, scale, CHUNK, SHIFT,
                        )  # fmt: skip
                    masses_ptr = list_ptr + groups
                    reading = tl.sum(reaches, 0)
                    for start in range(0, reading, _AT_ONCE):
                        which = start + tl.arange(0, _AT_ONCE)
                        some = tl.load(list_ptr + which, which < reading, other=0)
                        ids = _members(some)
                        x = tl.load(x_ptr + ids, (ids < vocab), other=-_INFINITY).to(tl.float32)
                        weight = tl.exp2((x - top) * scale)
                        weight = tl.where((_key(x, SHIFT) > floor) & (weight >= min_p), weight, 0.0)
                        bits = tl.sum(weight, 1).to(tl.int32, bitcast=True)
                        tl.store(masses_ptr + some, bits, which < reading)
                    tl.debug_barrier()
                    kept = tl.load(masses_ptr + group, reaches > 0, other=0).to(tl.float32, bitcast=True)
            else:
                min_p = 0.0
            token = _race(x_ptr, packed_ptr, kept, floor, min_p, top, scale, row, rows, vocab, NG, SHIFT)
    tl.store(out_ptr + row, token, not wide)


@triton.jit
def _finish_wide(
    x_ptr, packed_ptr, peak_ptr, mass_ptr, bounds_ptr, aside_ptr, sums_ptr, above_ptr, found_ptr, dense_ptr,
    out_ptr, rows, vocab, tables, stride,
    NG: tl.constexpr, NT: tl.constexpr, CHUNK: tl.constexpr, ROOM: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    _narrow, wide, top_k, top_p, min_p = _limits(packed_ptr, row, rows, vocab)
    if wide:
        top = tl.load(bounds_ptr + row * 3 + 2)
        token = -1
        if tl.abs(top) < _INFINITY:
            scale = _scale(packed_ptr, row)
            group = tl.arange(0, NG)
            exists = group < tables * _EACH
            place = row * tables * _EACH + group
            kept = tl.load(peak_ptr + row * tables + group // _EACH, exists, other=-_INFINITY)
            kept = tl.exp2((kept - top) * scale) * tl.load(mass_ptr + place, exists, other=0.0)
            wanted = _wanted(top_p, tl.sum(kept, 0))
            low, high = tl.load(bounds_ptr + row * 3), tl.load(bounds_ptr + row * 3 + 1)
            table = tl.arange(0, NT)
            above = tl.sum(tl.load(above_ptr + row * tables + table, table < tables, other=0), 0)
            kept = tl.load(sums_ptr + place, exists, other=0.0)
            mass = tl.sum(kept, 0)
            column = tl.arange(0, NG * _WIDE)
            first = column // _COLUMNS * _TABLE + column % _COLUMNS
            aside_ptr += row * tables * _TABLE
            found_ptr += row * tables * _COLUMNS
            dense_ptr += row * ROOM
            found = tl.load(found_ptr + column, column < tables * _COLUMNS, other=0).to(tl.int32)
            number = tl.sum(found, 0)
            to = tl.cumsum(found, 0) - found
            for i in range(tl.max(found, 0)):
                copied = tl.load(aside_ptr + first + i * _COLUMNS, i < found)
                tl.store(dense_ptr + to + i, copied, (i < found) & (to + i < ROOM))
            tl.debug_barrier()
            at = tl.arange(0, ROOM)
            x = tl.load(dense_ptr + at, at < number, other=-_INFINITY).to(tl.float32)
            keys = tl.where(at < number, _key(x, SHIFT), -2147483648)
            weights = tl.where(at < number, tl.exp2((x - top) * scale), 0.0)
            between = tl.sum(weights, 0)
            sure = (number <= ROOM) & (above <= top_k) & (mass < wanted)
            sure = sure & ((above == 0) | (tl.exp2((high - top) * scale) >= min_p))
            lost = (above + number >= top_k) | (mass + between >= wanted)
            lost = lost | (tl.exp2((low - top) * scale) < min_p)
            if sure & lost:
                under, over = _key(low, SHIFT) - 1, _key(high, SHIFT) - 1
                floor = _search_tile(keys, weights, under, over, number, between, above, mass, top_k, wanted)
                kept += _of_groups(aside_ptr, first, found, floor, min_p, top, scale, NG, SHIFT)
            else:
                found = tl.maximum(tl.minimum((vocab - first + _COLUMNS - 1) // _COLUMNS, _ROWS), 0)
                forbidden = _key(top * 0.0 - _INFINITY, SHIFT)
                number, between = _beyond(x_ptr, vocab, forbidden, top, scale, CHUNK, SHIFT)
                floor = _search(
                    x_ptr, vocab, forbidden, _key(top, SHIFT), number, between, 0, 0.0, top_k, wanted, top,
                    scale, CHUNK, SHIFT,
                )  # fmt: skip
                kept = _of_groups(x_ptr, first, found, floor, min_p, top, scale, NG, SHIFT)
            token = _race(x_ptr, packed_ptr, kept, floor, min_p, top, scale, row, rows, vocab, NG, SHIFT)
        tl.store(out_ptr + row, token)


@triton.jit
def _race(
    x_ptr, packed_ptr, kept, floor, min_p, top, scale, row, rows, vocab, NG: tl.constexpr, SHIFT: tl.constexpr
):  # fmt: skip
    """The token that is drawn, from the kept mass of each group [NG]; keys above `floor` are kept."""
    low_key, high_key = _column(packed_ptr, 4, row, rows), _column(packed_ptr, 5, row, rows)
    race = tl.where(kept > 0, kept / exponential(low_key, high_key, -1 - tl.arange(0, NG)), 0.0)
    member = tl.arange(0, _GROUP)
    ids = _first(tl.argmax(race, 0)) + member // _WIDE * _COLUMNS + member % _WIDE
    x = tl.load(x_ptr + ids, ids < vocab, other=-_INFINITY).to(tl.float32)
    weight = tl.exp2((x - top) * scale)
    stays = (_key(x, SHIFT) > floor) & (weight >= min_p)
    race = tl.where(stays, weight / exponential(low_key, high_key, ids), -1.0)
    return tl.max(tl.where(member == tl.argmax(race, 0), ids, 0), 0)


@triton.jit
def _kth(keys, k, under, over):
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
def _copy(x_ptr, list_ptr, dense_ptr, reading, floor, vocab, ROOM: tl.constexpr, SHIFT: tl.constexpr):
    """Copies what exceeds `floor` in the listed groups, as much of it as has room; how much there is."""
    place = 0
    for start in range(0, reading, _AT_ONCE):
        which = start + tl.arange(0, _AT_ONCE)
        ids = _members(tl.load(list_ptr + which, which < reading, other=0))
        x = tl.load(x_ptr + ids, (ids < vocab) & (which < reading)[:, None], other=-_INFINITY)
        taken = (_key(x.to(tl.float32), SHIFT) > floor) & (ids < vocab) & (which < reading)[:, None]
        order = tl.cumsum(taken.to(tl.int32), 1)
        number = tl.max(order, 1)
        to = place + (tl.cumsum(number, 0) - number)[:, None] + order - 1
        tl.store(dense_ptr + to, x, taken & (to < ROOM))
        place += tl.sum(number, 0)
    return place


@triton.jit
def _search(
    x_ptr, length, under, over, number, between, above, mass, top_k, wanted, top, scale,
    CHUNK: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The largest key that is known not to be kept, given that `under` is not, and that none is above `over`.

    Of the `length` logits here, `number` lie above `under` and have the mass `between`; beside them, `above`
    of this `mass` lie above `over`.
    """
    if (above < top_k) & (mass < wanted):
        number_over, number_under, mass_over, mass_under = number * 0, number, between * 0.0, between
        turn = 0
        while (over.to(tl.int64) - under > 1) & (number_under - number_over > 1):
            middle = _between(
                under, over, number_under + above - top_k, number_under - number_over,
                mass_under + mass - wanted, mass_under - mass_over, turn,
            )  # fmt: skip
            n, m = _beyond(x_ptr, length, middle, top, scale, CHUNK, SHIFT)
            stays = (above + n < top_k) & (mass + m < wanted)
            over, under = tl.where(stays, middle, over), tl.where(stays, under, middle)
            number_over, number_under = tl.where(stays, n, number_over), tl.where(stays, number_under, n)
            mass_over, mass_under = tl.where(stays, m, mass_over), tl.where(stays, mass_under, m)
            turn += 1
    else:
        under = over
    return under


@triton.jit
def _search_tile(keys, weights, under, over, number, between, above, mass, top_k, wanted):
    """`_search` among keys and weights that are at hand."""
    if (above < top_k) & (mass < wanted):
        number_over, number_under, mass_over, mass_under = number * 0, number, between * 0.0, between
        turn = 0
        while (over.to(tl.int64) - under > 1) & (number_under - number_over > 1):
            middle = _between(
                under, over, number_under + above - top_k, number_under - number_over,
                mass_under + mass - wanted, mass_under - mass_over, turn,
            )  # fmt: skip
            n = tl.sum((keys > middle).to(tl.int32), 0)
            m = tl.sum(tl.where(keys > middle, weights, 0.0), 0)
            stays = (above + n < top_k) & (mass + m < wanted)
            over, under = tl.where(stays, middle, over), tl.where(stays, under, middle)
            number_over, number_under = tl.where(stays, n, number_over), tl.where(stays, number_under, n)
            mass_over, mass_under = tl.where(stays, m, mass_over), tl.where(stays, mass_under, m)
            turn += 1
    else:
        under = over
    return under


@triton.jit
def _between(under, over, number, all_number, mass, all_mass, turn):
    """Where a line through both ends has what is wanted; every other turn the middle."""
    part = tl.maximum(number.to(tl.float32) / all_number, mass / tl.maximum(all_mass, 1e-37))
    part = tl.where(turn % 2 == 0, tl.minimum(tl.maximum(part, 0.02), 0.98), 0.5)
    span = over.to(tl.int64) - under
    step = tl.minimum(tl.maximum((span.to(tl.float32) * part).to(tl.int64), 1), span - 1)
    return (under + step).to(tl.int32)


@triton.jit
def _beyond(x_ptr, number, key, top, scale, CHUNK: tl.constexpr, SHIFT: tl.constexpr):
    """How many of the first `number` logits have larger keys, and their mass."""
    count = tl.zeros((CHUNK,), tl.int32)
    mass = tl.zeros((CHUNK,), tl.float32)
    for start in range(0, number, CHUNK):
        at = start + tl.arange(0, CHUNK)
        x = tl.load(x_ptr + at, at < number, other=-_INFINITY).to(tl.float32)
        over = (at < number) & (_key(x, SHIFT) > key)
        count += over.to(tl.int32)
        mass += tl.where(over, tl.exp2((x - top) * scale), 0.0)
    return tl.sum(count, 0), tl.sum(mass, 0)


@triton.jit
def _of_groups(x_ptr, first, lengths, floor, min_p, top, scale, NG: tl.constexpr, SHIFT: tl.constexpr):
    """The kept mass of each group [NG]: of each of its columns, `lengths` logits from `first` on."""
    mass = tl.zeros((NG * _WIDE,), tl.float32)
    for i in range(tl.max(lengths, 0)):
        x = tl.load(x_ptr + first + i * _COLUMNS, i < lengths, other=-_INFINITY).to(tl.float32)
        weight = tl.exp2((x - top) * scale)
        stays = (i < lengths) & (_key(x, SHIFT) > floor) & (weight >= min_p)
        mass += tl.where(stays, weight, 0.0)
    return tl.sum(tl.reshape(mass, (NG, _WIDE)), 1)


@triton.jit
def _first(group):
    """The first id of a group."""
    return group // _EACH * _TABLE + group % _EACH * _WIDE


@triton.jit
def _members(groups):
    """The ids of the tokens of groups [n] -> [n, _GROUP]."""
    member = tl.arange(0, _GROUP)
    return _first(groups)[:, None] + (member // _WIDE * _COLUMNS + member % _WIDE)[None, :]


@triton.jit
def _key(x, SHIFT: tl.constexpr):
    """int32 that orders like float32 x; both zeros have one. SHIFT: low bits that x's own dtype lacks."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def _column(packed_ptr, COLUMN: tl.constexpr, row, rows):
    return tl.load(packed_ptr + COLUMN * rows + row)


@triton.jit
def _scale(packed_ptr, row):
    """Of logits into powers of two. Greedy rows need none."""
    temperature = tl.load(packed_ptr + row).to(tl.float32, bitcast=True)
    return _LOG2E / tl.maximum(tl.where(temperature > 0, temperature, 1.0), _COLDEST)


@triton.jit
def _limits(packed_ptr, row, rows, vocab):
    """Whether the row is narrow, whether it is wide, and top_k (`vocab` for all), top_p, min_p."""
    top_k = _column(packed_ptr, 1, row, rows)
    top_k = tl.where((top_k > 0) & (top_k < vocab), top_k, vocab)
    top_p = _column(packed_ptr, 2, row, rows).to(tl.float32, bitcast=True)
    min_p = _column(packed_ptr, 3, row, rows).to(tl.float32, bitcast=True)
    draws = _column(packed_ptr, 0, row, rows).to(tl.float32, bitcast=True) > 0.0
    limited = draws & ((top_k < vocab) | (top_p < 1.0) | (min_p > 0.0))
    narrow = limited & (top_k <= _NARROW)
    return narrow, limited & (top_k > _NARROW), top_k, top_p, min_p


@triton.jit
def _wanted(top_p, total):
    return tl.where(top_p < 1.0, tl.maximum(top_p * total, _LEAST), _INFINITY)


def sample(logits: Tensor, parameters: SamplingParameters, shape: Shape = SHAPE) -> Tensor:
    rows, vocab = logits.shape
    packed, device, stride = parameters.packed, logits.device, logits.stride(0)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    if not rows:
        return tokens
    best, peak, mass = statistics(logits, parameters, masses=parameters.draws, warps=shape.warps)
    groups, tables = best.shape[1], peak.shape[1]
    ng, nt = triton.next_power_of_2(groups), triton.next_power_of_2(tables)
    shift = {torch.bfloat16: 16, torch.float16: 13}.get(logits.dtype, 0)
    listed = dense = tokens  # not read without limits
    if parameters.limits:
        listed = torch.empty(rows, 2, groups, dtype=torch.int32, device=device)
        dense = torch.empty(rows, shape.narrow_room, dtype=logits.dtype, device=device)
    _finish[(rows,)](
        logits, packed, best, peak, mass, listed, dense, tokens, rows, vocab, tables, stride,
        DRAWS=parameters.draws, LIMITS=parameters.limits, NG=ng, NT=nt, CHUNK=shape.chunk,
        ROOM=shape.narrow_room, SHIFT=shift, num_warps=shape.finish_warps if parameters.limits else 4,
    )  # fmt: skip
    if parameters.wide:
        bounds = torch.empty(rows, 3, dtype=torch.float32, device=device)
        aside = torch.empty(rows, tables * ROWS * COLUMNS, dtype=logits.dtype, device=device)
        dense = torch.empty(rows, shape.room, dtype=logits.dtype, device=device)
        sums = torch.empty_like(best)
        above = torch.empty(rows, tables, dtype=torch.int32, device=device)
        found = torch.empty(rows, tables * COLUMNS, dtype=torch.int8, device=device)
        _bracket[(rows,)](
            logits, packed, best, peak, mass, bounds, rows, vocab, tables, stride,
            NG=max(_LEAST_GROUPS, ng), ROUNDS=shape.rounds, num_warps=shape.bracket_warps,
        )  # fmt: skip
        _collect[(rows * tables,)](
            logits, packed, best, bounds, aside, sums, above, found, rows, vocab, tables, stride,
            VECTOR=16 // logits.element_size(), num_warps=shape.collect_warps,
        )  # fmt: skip
        _finish_wide[(rows,)](
            logits, packed, peak, mass, bounds, aside, sums, above, found, dense, tokens, rows, vocab, tables,
            stride, NG=ng, NT=nt, CHUNK=shape.chunk, ROOM=shape.room, SHIFT=shift, num_warps=shape.wide_warps,
        )  # fmt: skip
    return tokens


def statistics(
    logits: Tensor, parameters: SamplingParameters | None, *, masses: bool = True, warps: int = SHAPE.warps
) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits [m, V], at the temperatures of the parameters or at 1, all float32: the largest of each group
    [m, groups] and of each table [m, tables]; the sum of each group's exponentials, relative to the largest
    of its table [m, groups]. Without `masses`, the last is not written.
    """
    rows, vocab = logits.shape
    tables = triton.cdiv(vocab, ROWS * COLUMNS)
    best = torch.empty(rows, tables * COLUMNS // WIDE, dtype=torch.float32, device=logits.device)
    peak = torch.empty(rows, tables, dtype=torch.float32, device=logits.device)
    mass = torch.empty_like(best) if masses else best
    _statistics[(rows * tables,)](
        logits, None if parameters is None else parameters.packed, best, peak, mass, vocab, tables,
        logits.stride(0), HEATED=parameters is not None, MASSES=masses, num_warps=warps,
    )  # fmt: skip
    return best, peak, mass
