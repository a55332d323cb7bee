# SPDX-License-Identifier: Apache-2.0
"""The kernels of sampling that end in a token: a program a row, which knows what each group of the row holds.

`_finish` takes greedy rows, rows without limits, and narrow ones, of which what is kept lies in the groups of
the top_k largest maxima: it reads these again. `_decide` takes wide rows. Between two logits, one from which
on all are kept and one below which none is, lies the least kept one; of each group the mass from either on is
known. Usually that is enough: the group that wins its race with the smaller mass, against all others with the
larger, wins it wherever between the two the least kept logit lies, and so does a token of it above both. A
row where it is not enough is searched in the groups that reach between the two, if they are few; else it asks
for other bounds."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.noise import exponential
from sgl_kernels._triton.overlap import begin
from sgl_kernels._triton.sampling_row import (
    BOUNDS,
    EACH,
    GROUP,
    INFINITY,
    NO_KEY,
    TABLE,
    column_of,
    first_of,
    key_of,
    limits_of,
    rounded_up,
    scale_of,
    wanted_of,
)
from sgl_kernels._triton.sampling_search import (
    between_keys,
    copy_aside,
    kth_key,
    masses_aside,
    masses_of,
    reached_by,
    search_row,
    search_tile,
)
from sgl_kernels.sampling import COLUMNS, NARROW, ROWS, WIDE

_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)
_NARROW = tl.constexpr(NARROW)
_BOUNDS = tl.constexpr(BOUNDS)
_NEAR = tl.constexpr(0.06)  # how far from where the least kept logit is expected the next bounds lie
_FAINT = tl.constexpr(40.0)


@triton.jit
def _draw_group(kept, packed_ptr, row, rows, NG: tl.constexpr):
    """How each group races [NG] with its kept mass: the largest wins."""
    low, high = column_of(packed_ptr, 4, row, rows), column_of(packed_ptr, 5, row, rows)
    return tl.where(kept > 0, kept / exponential(low, high, -1 - tl.arange(0, NG)), 0.0)


@triton.jit
def _draw_member(
    x_ptr, packed_ptr, group, floor, min_p, top, scale, row, rows, vocab, SHIFT: tl.constexpr
):  # fmt: skip
    """The token of the group that is drawn of those whose keys are above `floor`, and its key."""
    low, high = column_of(packed_ptr, 4, row, rows), column_of(packed_ptr, 5, row, rows)
    member = tl.arange(0, GROUP)
    ids = first_of(group) + member // _WIDE * _COLUMNS + member % _WIDE
    x = tl.load(x_ptr + ids, ids < vocab, other=-INFINITY).to(tl.float32)
    weight, key = tl.exp2((x - top) * scale), key_of(x, SHIFT)
    race = tl.where((key > floor) & (weight >= min_p), weight / exponential(low, high, ids), -1.0)
    wins = member == tl.argmax(race, 0)
    return tl.max(tl.where(wins, ids, 0), 0), tl.max(tl.where(wins, key, NO_KEY), 0)


@triton.jit(do_not_specialize=["rows"])
def _finish(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, list_ptr, dense_ptr, out_ptr, rows, vocab, tables,
    stride, DRAWS: tl.constexpr, LIMITS: tl.constexpr, NG: tl.constexpr, NT: tl.constexpr,
    CHUNK: tl.constexpr, ROOM: tl.constexpr, SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """All rows but wide ones. list [rows, 2, groups]: the groups that are read of a narrow row; masses."""
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    table = tl.arange(0, NT)
    peaks = tl.load(peak_ptr + row * tables + table, table < tables, other=-INFINITY)
    top = tl.max(peaks, 0)
    token = -1
    wide = False
    if LIMITS:
        narrow, wide, top_k, top_p, min_p = limits_of(packed_ptr, row, rows, vocab)
    if (tl.abs(top) < INFINITY) & (not wide):
        cold = True
        if DRAWS:
            cold = column_of(packed_ptr, 0, row, rows).to(tl.float32, bitcast=True) <= 0.0
        if cold:
            every = tl.argmax((peaks == top).to(tl.int32), 0) * TABLE + tl.arange(0, TABLE)
            is_top = tl.load(x_ptr + every, every < vocab, other=-INFINITY).to(tl.float32) == top
            token = tl.min(tl.where(is_top, every, vocab - 1), 0)
        elif DRAWS:
            scale = scale_of(packed_ptr, row)
            group = tl.arange(0, NG)
            groups = tables * EACH
            exists = group < groups
            kept = tl.load(peak_ptr + row * tables + group // EACH, exists, other=-INFINITY)
            kept = tl.exp2((kept - top) * scale)
            kept *= tl.load(mass_ptr + row * groups + group, exists, other=0.0)
            floor = tl.full((), NO_KEY, tl.int32)  # the largest key that is known not to be kept
            if LIMITS:
                if narrow:
                    wanted = wanted_of(top_p, tl.sum(kept, 0))
                    best = tl.load(best_ptr + row * groups + group, exists, other=-INFINITY)
                    highest = key_of(top, SHIFT)
                    floor = kth_key(key_of(best, SHIFT), top_k, key_of(top * 0.0 - INFINITY, SHIFT), highest)
                    reaches = (key_of(best, SHIFT) > floor).to(tl.int32)
                    list_ptr += row * 2 * groups
                    dense_ptr += row * ROOM
                    reading = tl.sum(reaches, 0)
                    tl.store(list_ptr + tl.cumsum(reaches, 0) - 1, group, reaches > 0)
                    tl.debug_barrier()
                    number = copy_aside(
                        x_ptr, list_ptr, dense_ptr, reading, floor, highest, vocab, ROOM, SHIFT
                    )
                    tl.debug_barrier()
                    if number <= ROOM:
                        _n, between = between_keys(dense_ptr, number, floor, highest, top, scale, 256, SHIFT)
                        floor = search_row(
                            dense_ptr, number, floor, highest, number, between, 0, 0.0, top_k, wanted, top,
                            scale, 256, SHIFT,
                        )  # fmt: skip
                    else:
                        number, between = between_keys(x_ptr, vocab, floor, highest, top, scale, CHUNK, SHIFT)
                        floor = search_row(
                            x_ptr, vocab, floor, highest, number, between, 0, 0.0, top_k, wanted, top,
                            scale, CHUNK, SHIFT,
                        )  # fmt: skip
                    masses_aside(
                        x_ptr, list_ptr, list_ptr + groups, reading, floor, highest, min_p, top, scale, vocab,
                        SHIFT,
                    )  # fmt: skip
                    tl.debug_barrier()
                    kept = tl.load(list_ptr + groups + group, reaches > 0, other=0)
                    kept = kept.to(tl.float32, bitcast=True)
            else:
                min_p = 0.0
            winner = tl.argmax(_draw_group(kept, packed_ptr, row, rows, NG), 0)
            token, _key = _draw_member(
                x_ptr, packed_ptr, winner, floor, min_p, top, scale, row, rows, vocab, SHIFT
            )
    tl.store(out_ptr + row, token, not wide)


@triton.jit
def _mass_from(
    i, kept_ptr, number_ptr, unit, row, tables, counted, NG: tl.constexpr, NT: tl.constexpr
):  # fmt: skip
    """From bound i of the row on: the mass of each group [NG], that of all, and how many tokens if
    counted."""
    group, table = tl.arange(0, NG), tl.arange(0, NT)
    place = (row * _BOUNDS + i) * tables
    masses = unit * tl.load(kept_ptr + place * EACH + group, group < tables * EACH, other=0.0)
    number = tl.sum(tl.load(number_ptr + place + table, (table < tables) & counted, other=0), 0)
    return masses, tl.sum(masses, 0), number


@triton.jit
def _ends(
    bounds_ptr, kept_ptr, number_ptr, low_kept, low_mass, unit, wanted, top_k, floor, top, row, vocab, tables,
    NG: tl.constexpr, NT: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The logit below which no token is kept, and the one from which on all are, as far as is known; the mass
    of each group from these on, that of all, and how many tokens if there is a top_k. low_kept, low_mass: of
    all."""
    counted = top_k < vocab
    low, high, low_number, high_number = top * 0.0 - INFINITY, top * 0.0 + INFINITY, vocab, 0
    high_kept, high_mass = low_kept * 0.0, low_mass * 0.0
    for i in tl.static_range(_BOUNDS):
        bound = tl.load(bounds_ptr + i)
        if bound < INFINITY:
            masses, mass, number = _mass_from(i, kept_ptr, number_ptr, unit, row, tables, counted, NG, NT)
            lost = (mass >= wanted) | (counted & (number >= top_k)) | (bound <= floor)
            sure = (mass < wanted) & (not (counted & (number > top_k))) & (bound >= floor)
            lost, sure = lost & (bound > low), sure & (bound < high)
            low, high = tl.where(lost, bound, low), tl.where(sure, bound, high)
            low_kept, high_kept = tl.where(lost, masses, low_kept), tl.where(sure, masses, high_kept)
            low_mass, high_mass = tl.where(lost, mass, low_mass), tl.where(sure, mass, high_mass)
            low_number = tl.where(lost, number, low_number)
            high_number = tl.where(sure, number, high_number)
    # All between neighbours are equal, and so are all from the largest logit on.
    single = (low > -INFINITY) & (high < INFINITY)
    single = single & (key_of(high, SHIFT).to(tl.int64) - key_of(low, SHIFT) <= 1) & (low < high)
    all_stay = (single & (low >= floor) & (not (counted & (high_number >= top_k)))) | (low >= top)
    none_stay = single & (not all_stay)
    high, high_kept = tl.where(all_stay, low, high), tl.where(all_stay, low_kept, high_kept)
    low, low_kept = tl.where(none_stay, high, low), tl.where(none_stay, high_kept, low_kept)
    return low, high, low_kept, high_kept, low_mass, high_mass, low_number, high_number


@triton.jit
def _next_bounds(low, high, part, SHIFT: tl.constexpr):
    """Both ends, and two logits around the one that lies this part of the way from low to high."""
    which = tl.arange(0, _BOUNDS)
    away = tl.where(which == 1, part - _NEAR, part + _NEAR)
    away = tl.minimum(tl.maximum(away, 0.0), 1.0)
    between = tl.minimum(rounded_up(low + (high - low) * away, SHIFT), high)
    return tl.where(which == 0, low, tl.where(which == _BOUNDS - 1, high, between))


@triton.jit
def _search_groups(
    x_ptr, list_ptr, dense_ptr, reaches, reading, expected, under, over, above, mass, top_k, wanted, top,
    scale, vocab, groups, NG: tl.constexpr, ROOM: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """Whether the groups that reach between two keys hold few enough tokens there, as many as expected (-1:
    any); if so, the largest key that is not kept, and the mass of each group [NG] from there up to `over`."""
    group = tl.arange(0, NG)
    tl.store(list_ptr + tl.cumsum(reaches.to(tl.int32), 0) - 1, group, reaches)
    tl.debug_barrier()
    number = copy_aside(x_ptr, list_ptr, dense_ptr, reading, under, over, vocab, ROOM, SHIFT)
    tl.debug_barrier()
    found = (number <= ROOM) & ((expected < 0) | (number == expected))
    more = tl.zeros((NG,), tl.float32)
    if found:
        at = tl.arange(0, ROOM)
        x = tl.load(dense_ptr + at, at < number, other=-INFINITY).to(tl.float32)
        keys = tl.where(at < number, key_of(x, SHIFT), NO_KEY)
        weights = tl.where(at < number, tl.exp2((x - top) * scale), 0.0)
        between = tl.sum(weights, 0)
        under = search_tile(keys, weights, under, over, number, between, above, mass, top_k, wanted)
        masses_ptr = list_ptr + groups
        masses_aside(x_ptr, list_ptr, masses_ptr, reading, under, over, 0.0, top, scale, vocab, SHIFT)
        tl.debug_barrier()
        more = tl.load(masses_ptr + group, reaches, other=0).to(tl.float32, bitcast=True)
    return found, under, more


@triton.jit
def _search_all(
    x_ptr, under, over, above, mass, top_k, wanted, top, scale, vocab,
    NG: tl.constexpr, CHUNK: tl.constexpr, SHIFT: tl.constexpr,
):  # fmt: skip
    """The largest key that is not kept and the kept mass of each group [NG], by reading the row as often as
    it takes."""
    number, between = between_keys(x_ptr, vocab, under, over, top, scale, CHUNK, SHIFT)
    under = search_row(
        x_ptr, vocab, under, over, number, between, above, mass, top_k, wanted, top, scale, CHUNK, SHIFT
    )
    column = tl.arange(0, NG * _WIDE)
    first = column // _COLUMNS * TABLE + column % _COLUMNS
    there = tl.maximum(tl.minimum((vocab - first + _COLUMNS - 1) // _COLUMNS, _ROWS), 0)
    return under, masses_of(x_ptr, first, there, under, 0.0, top, scale, NG, SHIFT)


@triton.jit(do_not_specialize=["rows"])
def _decide(
    x_ptr, packed_ptr, best_ptr, peak_ptr, mass_ptr, bounds_ptr, kept_ptr, number_ptr, list_ptr, dense_ptr,
    out_ptr, rows, vocab, tables, stride, FIRST: tl.constexpr, LAST: tl.constexpr, NG: tl.constexpr,
    NT: tl.constexpr, CHUNK: tl.constexpr, ROOM: tl.constexpr, SHIFT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Wide rows that are not decided: their bounds become infinite, or others. list [rows, 2, groups]: the
    groups that are read; masses. FIRST: the bounds are guessed, where there are any. LAST: there is no other
    turn."""
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    bounds_ptr += row * _BOUNDS
    _narrow, wide, top_k, top_p, min_p = limits_of(packed_ptr, row, rows, vocab)
    pending = wide
    if not FIRST:
        pending = wide & (tl.load(bounds_ptr) < INFINITY)
    if pending:
        table = tl.arange(0, NT)
        top = tl.max(tl.load(peak_ptr + row * tables + table, table < tables, other=-INFINITY), 0)
        token = -1
        bounds = tl.full((_BOUNDS,), INFINITY, tl.float32)
        if tl.abs(top) < INFINITY:
            scale = scale_of(packed_ptr, row)
            group = tl.arange(0, NG)
            groups = tables * EACH
            exists = group < groups
            unit = tl.load(peak_ptr + row * tables + group // EACH, exists, other=-INFINITY)
            unit = tl.exp2((unit - top) * scale)
            best = tl.load(best_ptr + row * groups + group, exists, other=-INFINITY)
            low_kept = unit * tl.load(mass_ptr + row * groups + group, exists, other=0.0)
            low_mass = tl.sum(low_kept, 0)
            wanted = wanted_of(top_p, low_mass)
            counted = top_k < vocab
            floor = top * 0.0 - INFINITY  # by min_p
            if min_p > 0.0:
                floor = tl.minimum(rounded_up(top + tl.log2(min_p) / scale, SHIFT), top)
            low, high, low_kept, high_kept, low_mass, high_mass, low_number, high_number = _ends(
                bounds_ptr, kept_ptr, number_ptr, low_kept, low_mass, unit, wanted, top_k, floor, top, row,
                vocab, tables, NG, NT, SHIFT,
            )  # fmt: skip
            least = tl.maximum(low, floor)
            nothing = key_of(top * 0.0 - INFINITY, SHIFT)  # of a token that is forbidden
            under = tl.where(least > -INFINITY, key_of(least, SHIFT) - 1, nothing)
            over = key_of(tl.where(high < INFINITY, high, top), SHIFT) - (high < INFINITY).to(tl.int32)
            exact = least >= high

            # The races, with what is kept at least and at most.
            race = _draw_group(high_kept, packed_ptr, row, rows, NG)
            winner = tl.argmax(race, 0)
            others = _draw_group(tl.where(group == winner, 0.0, low_kept), packed_ptr, row, rows, NG)
            decided = exact | (tl.max(others, 0) < tl.max(race, 0))
            token, key = _draw_member(
                x_ptr, packed_ptr, winner, under, 0.0, top, scale, row, rows, vocab, SHIFT
            )
            decided = decided & (exact | (key > over))
            if not decided:
                measured = least == low
                reach = reached_by(best, tl.exp2((best - top) * scale), top, scale, top_k, wanted)
                measured = measured & (reach <= least)
                least = tl.minimum(tl.maximum(least, rounded_up(reach, SHIFT)), top)
                under = tl.where(least > -INFINITY, key_of(least, SHIFT) - 1, nothing)
                reaches = (best >= least) & ((low_kept > high_kept) | (not measured))
                reading = tl.sum(reaches.to(tl.int32), 0)
                if reading <= _NARROW:
                    # Tokens that do not show in the mass of their group count all the same.
                    expected = tl.where(measured & counted, low_number - high_number, -1)
                    decided, under, more = _search_groups(
                        x_ptr, list_ptr + row * 2 * groups, dense_ptr + row * ROOM, reaches, reading,
                        expected, under, over, high_number, high_mass, top_k, wanted, top, scale, vocab,
                        groups, NG, ROOM, SHIFT,
                    )  # fmt: skip
                    high_kept += more
                if not decided:
                    if LAST:
                        under, high_kept = _search_all(
                            x_ptr, under, over, high_number, high_mass, top_k, wanted, top, scale, vocab,
                            NG, CHUNK, SHIFT,
                        )  # fmt: skip
                        decided = True
                    else:
                        part = (low_mass - wanted) / tl.maximum(low_mass - high_mass, 1e-37)
                        if counted:
                            share = (low_number - top_k).to(tl.float32) / tl.maximum(
                                low_number - high_number, 1
                            )
                            part = tl.maximum(part, share)
                        least = tl.maximum(least, rounded_up(top - _FAINT / scale, SHIFT))
                        most = tl.where(high < INFINITY, high, top)
                        bounds = _next_bounds(tl.minimum(least, most), most, part, SHIFT)
                if decided:
                    winner = tl.argmax(_draw_group(high_kept, packed_ptr, row, rows, NG), 0)
                    token, _key = _draw_member(
                        x_ptr, packed_ptr, winner, under, 0.0, top, scale, row, rows, vocab, SHIFT
                    )
        tl.store(out_ptr + row, token)
        tl.store(bounds_ptr + tl.arange(0, _BOUNDS), bounds)
