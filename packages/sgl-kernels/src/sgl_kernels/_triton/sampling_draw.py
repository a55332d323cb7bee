# SPDX-License-Identifier: Apache-2.0
"""The races of sampling, and the kernel of all rows but wide ones: a program a row, which knows what each
group of the row holds.

`_finish` takes greedy rows, rows without limits, and narrow ones, of which what is kept lies in the groups of
the top_k largest maxima: it reads these again."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.noise import exponential
from sgl_kernels._triton.overlap import begin
from sgl_kernels._triton.sampling_row import (
    EACH,
    GROUP,
    INFINITY,
    NO_KEY,
    TABLE,
    column_of,
    first_of,
    key_of,
    limits_of,
    scale_of,
    wanted_of,
)
from sgl_kernels._triton.sampling_search import between_keys, copy_aside, kth_key, masses_aside, search_row
from sgl_kernels.sampling import COLUMNS, WIDE

_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)


@triton.jit
def draw_group(kept, packed_ptr, row, rows, NG: tl.constexpr):
    """How each group races [NG] with its kept mass: the largest wins."""
    low, high = column_of(packed_ptr, 4, row, rows), column_of(packed_ptr, 5, row, rows)
    return tl.where(kept > 0, kept / exponential(low, high, -1 - tl.arange(0, NG)), 0.0)


@triton.jit
def draw_member(
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
            winner = tl.argmax(draw_group(kept, packed_ptr, row, rows, NG), 0)
            token, _key = draw_member(
                x_ptr, packed_ptr, winner, floor, min_p, top, scale, row, rows, vocab, SHIFT
            )
    tl.store(out_ptr + row, token, not wide)
