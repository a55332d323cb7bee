# SPDX-License-Identifier: Apache-2.0
"""The kernels of sampling that read whole rows, a table a program: what each group holds, of all or from a
logit on.

`_statistics` gives the largest logit of each group and its mass. Where a row is limited by what a search must
find, the mass of each group from four logits on comes with it, for nearly nothing: a program's work is bound
by memory. `_guess` has chosen these from a sample of the row, two on each side of where the least kept logit
must be; `_read_again` does the same from other four, for rows that are not decided. What the numbers mean for
the row is not known here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sampling_row import (
    BOUNDS,
    EACH,
    INFINITY,
    TABLE,
    limits_of,
    rounded_up,
    scale_of,
)
from sgl_kernels.sampling import COLUMNS, ROWS, WIDE, SamplingParameters

_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)
_BOUNDS = tl.constexpr(BOUNDS)
_RUN = tl.constexpr(8)  # consecutive ids of a sample: 32 bytes of float32
_HALVINGS = tl.constexpr(14)
_FAINT = tl.constexpr(40.0)  # a token so many powers of two below the first decides no sum
STATISTICS_WARPS = 1


@triton.jit(do_not_specialize=["rows"])
def _guess(
    x_ptr, packed_ptr, bounds_ptr, rows, vocab, stride, SAMPLE: tl.constexpr, SHIFT: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """bounds [rows, BOUNDS], ascending: the least kept logit lies beside or between them, by what a sample
    says; infinity where a row is not wide, or limited by min_p alone."""
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    _narrow, wide, top_k, top_p, _min_p = limits_of(packed_ptr, row, rows, vocab)
    which = tl.arange(0, _BOUNDS)
    found = tl.full((_BOUNDS,), INFINITY, tl.float32)
    if wide & ((top_k < vocab) | (top_p < 1.0)):
        place = tl.arange(0, SAMPLE)
        first = (place // _RUN).to(tl.int64) * vocab // (SAMPLE // _RUN) // _RUN * _RUN
        ids = first.to(tl.int32) + place % _RUN
        x = tl.load(x_ptr + row * stride + ids, ids < vocab, other=-INFINITY).to(tl.float32)
        x = tl.where(x == x, x, -INFINITY)
        top = tl.max(x, 0)
        if tl.abs(top) < INFINITY:
            scale = scale_of(packed_ptr, row)
            weight = tl.exp2((x - top) * scale)
            total = tl.sum(weight, 0)
            size = tl.sum((ids < vocab).to(tl.float32), 0)
            # One and four deviations to each side, of a share among weights and of a number.
            steps = tl.where(which < 2, tl.where(which == 0, 4.0, 1.0), tl.where(which == 2, -1.0, -4.0))
            deviation = tl.sqrt(tl.sum(weight * weight, 0) * top_p * (1.0 - top_p))
            mass = tl.where(top_p < 1.0, top_p * total + steps * deviation, INFINITY)
            count = top_k.to(tl.float32) * (size / vocab)
            count = tl.where(top_k < vocab, count + steps * tl.sqrt(count), INFINITY)
            least = tl.min(tl.where(x > -INFINITY, x, top), 0)
            low = tl.maximum(least, top - _FAINT / scale) + tl.zeros((_BOUNDS,), tl.float32)
            high = top + tl.zeros((_BOUNDS,), tl.float32)
            for _ in range(_HALVINGS):
                middle = 0.5 * low + 0.5 * high
                over = x[None, :] >= middle[:, None]
                reached = tl.sum(tl.where(over, weight[None, :], 0.0), 1) >= mass
                reached = reached | (tl.sum(over.to(tl.float32), 1) >= count)
                low, high = tl.where(reached, middle, low), tl.where(reached, high, middle)
            found = rounded_up(low, SHIFT)
    tl.store(bounds_ptr + row * _BOUNDS + which, found)


@triton.jit
def _masses(columns):
    """Of each group of a table, from the sums of its columns."""
    return tl.sum(tl.reshape(columns, (EACH, _WIDE)), 1)


@triton.jit
def _from_bounds(
    x, weights, bounds_ptr, kept_ptr, number_ptr, row, table, tables, COUNTED: tl.constexpr
):  # fmt: skip
    """kept [rows, BOUNDS, groups]: the mass from each bound on; number [rows, BOUNDS, tables]: of how
    many."""
    for i in tl.static_range(_BOUNDS):
        over = x >= tl.load(bounds_ptr + row * _BOUNDS + i)
        place = (row * _BOUNDS + i) * tables + table
        masses = _masses(tl.sum(tl.where(over, weights, 0.0), 0))
        tl.store(kept_ptr + place * EACH + tl.arange(0, EACH), masses)
        if COUNTED:
            tl.store(number_ptr + place, tl.sum(tl.sum(over.to(tl.int32), 0), 0))


@triton.jit
def _table(x_ptr, row, table, vocab, stride):
    """A table of a row as float32; NaN becomes infinity, since the row of either has no token."""
    ids = table * TABLE + tl.arange(0, _ROWS)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    x = tl.load(x_ptr + row * stride + ids, ids < vocab, other=-INFINITY).to(tl.float32)
    return tl.where(x == x, x, INFINITY)


@triton.jit(do_not_specialize=["rows"])
def _statistics(
    x_ptr, packed_ptr, bounds_ptr, best_ptr, peak_ptr, mass_ptr, kept_ptr, number_ptr, rows, vocab, tables,
    stride, HEATED: tl.constexpr, MASSES: tl.constexpr, BOUNDED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """best, mass [rows, groups]; peak [rows, tables]: the largest of a table, to which its masses relate."""
    begin(OVERLAP)
    row = (tl.program_id(0) // tables).to(tl.int64)
    table = tl.program_id(0) % tables
    x = _table(x_ptr, row, table, vocab, stride)
    best = tl.max(tl.reshape(tl.max(x, 0), (EACH, _WIDE)), 1)
    peak = tl.max(best, 0)
    group = (row * tables + table) * EACH + tl.arange(0, EACH)
    tl.store(best_ptr + group, best)
    tl.store(peak_ptr + row * tables + table, peak)
    if MASSES:
        scale = 1.4426950408889634
        if HEATED:
            scale = scale_of(packed_ptr, row)
        weights = tl.exp2((x - tl.where(peak == -INFINITY, 0.0, peak)) * scale)
        tl.store(mass_ptr + group, _masses(tl.sum(weights, 0)))
        if BOUNDED and tl.load(bounds_ptr + row * _BOUNDS) < INFINITY:
            _narrow, _wide, top_k, _top_p, _min_p = limits_of(packed_ptr, row, rows, vocab)
            if top_k < vocab:
                _from_bounds(x, weights, bounds_ptr, kept_ptr, number_ptr, row, table, tables, True)
            else:
                _from_bounds(x, weights, bounds_ptr, kept_ptr, number_ptr, row, table, tables, False)


@triton.jit(do_not_specialize=["rows"])
def _read_again(
    x_ptr, packed_ptr, bounds_ptr, peak_ptr, kept_ptr, number_ptr, rows, vocab, tables, stride,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """What `_statistics` gives from the bounds on, where a row has any."""
    begin(OVERLAP)
    # The last rows are those that the cache still has.
    row = (rows - 1 - tl.program_id(0) // tables).to(tl.int64)
    table = tl.program_id(0) % tables
    least = tl.load(bounds_ptr + row * _BOUNDS)
    if least < INFINITY:
        peak = tl.load(peak_ptr + row * tables + table)
        if peak < least:
            for i in tl.static_range(_BOUNDS):
                place = (row * _BOUNDS + i) * tables + table
                tl.store(kept_ptr + place * EACH + tl.arange(0, EACH), tl.zeros((EACH,), tl.float32))
                tl.store(number_ptr + place, 0)
        else:
            x = _table(x_ptr, row, table, vocab, stride)
            weights = tl.exp2((x - peak) * scale_of(packed_ptr, row))
            _narrow, _wide, top_k, _top_p, _min_p = limits_of(packed_ptr, row, rows, vocab)
            if top_k < vocab:
                _from_bounds(x, weights, bounds_ptr, kept_ptr, number_ptr, row, table, tables, True)
            else:
                _from_bounds(x, weights, bounds_ptr, kept_ptr, number_ptr, row, table, tables, False)


class Read:
    """What is known of logits [m, V] at the temperatures of the parameters or at 1, all float32 but `number`.

    best [m, groups], peak [m, tables]: the largest logits. mass [m, groups]: the sums of exponentials,
    relative to the largest of the table; not written without `masses`. bounds, kept, number: as the kernels
    say, of wide rows; None without `sample`, the number of tokens a guess is made from."""

    def __init__(
        self, logits: Tensor, parameters: SamplingParameters | None, *, masses: bool = True, sample: int = 0,
        shift: int = 0, warps: int = STATISTICS_WARPS,
    ) -> None:  # fmt: skip
        rows, vocab = logits.shape
        device, tables = logits.device, triton.cdiv(vocab, ROWS * COLUMNS)
        self.best = torch.empty(rows, tables * COLUMNS // WIDE, dtype=torch.float32, device=device)
        self.peak = torch.empty(rows, tables, dtype=torch.float32, device=device)
        self.mass = torch.empty_like(self.best) if masses else self.best
        self.bounds = self.kept = self.number = None
        self._logits, self._packed = logits, None if parameters is None else parameters.packed
        if sample:
            self.bounds = torch.empty(rows, BOUNDS, dtype=torch.float32, device=device)
            self.kept = torch.empty(rows, BOUNDS, self.best.shape[1], dtype=torch.float32, device=device)
            self.number = torch.empty(rows, BOUNDS, tables, dtype=torch.int32, device=device)
            _guess[(rows,)](
                logits, self._packed, self.bounds, rows, vocab, logits.stride(0), SAMPLE=sample, SHIFT=shift,
                num_warps=8, **overlapping(device, rows),
            )  # fmt: skip
        _statistics[(rows * tables,)](
            logits, self._packed, self.bounds, self.best, self.peak, self.mass, self.kept, self.number, rows,
            vocab, tables, logits.stride(0), HEATED=parameters is not None, MASSES=masses,
            BOUNDED=sample > 0, num_warps=warps, **overlapping(device, rows * tables),
        )  # fmt: skip

    def again(self, warps: int = STATISTICS_WARPS) -> None:
        """From the bounds that there are now; rows whose first is infinite are left alone."""
        (rows, vocab), tables = self._logits.shape, self.peak.shape[1]
        _read_again[(rows * tables,)](
            self._logits, self._packed, self.bounds, self.peak, self.kept, self.number, rows, vocab, tables,
            self._logits.stride(0), num_warps=warps, **overlapping(self._logits.device, rows * tables),
        )  # fmt: skip
