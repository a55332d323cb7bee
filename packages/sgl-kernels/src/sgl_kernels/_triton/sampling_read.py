# SPDX-License-Identifier: Apache-2.0
"""The kernels of sampling that read whole rows: what each group holds, and what lies above two logits.

`_statistics` gives the largest logit of each group and its mass, a table a program. Where a sample of a row
shows between which two logits its least kept one must lie (`_guess`), the mass above each comes with it, for
nearly nothing: a program's work is bound by memory. What the numbers mean for the row is not known here."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sampling_guess import by_sample, sample_of
from sgl_kernels._triton.sampling_row import (
    EACH,
    INFINITY,
    TABLE,
    limits_of,
    scale_of,
)
from sgl_kernels._triton.sizes import cdiv
from sgl_kernels.sampling import COLUMNS, ROWS, WIDE, SamplingParameters

_ROWS = tl.constexpr(ROWS)
_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)
_FEW = tl.constexpr(128)  # kept tokens in a sample: fewer say too little
_SLACK = tl.constexpr(0.5)  # of a share: a larger one says too little
_STATISTICS_WARPS = 1


@triton.jit(do_not_specialize=["rows"])
def _guess(
    x_ptr, packed_ptr, bounds_ptr, rows, vocab, stride, SAMPLE: tl.constexpr, OVERLAP: tl.constexpr
):  # fmt: skip
    """bounds [rows, 2], ascending: the least kept logit lies between them, by what a sample says; infinity
    where the row is not wide, limited by min_p alone, or where the sample says little."""
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64)
    _narrow, wide, top_k, top_p, _min_p = limits_of(packed_ptr, row, rows, vocab)
    low = tl.full((), INFINITY, tl.float32)
    high = low
    count_share = tl.where(top_k < vocab, top_k.to(tl.float32) / vocab, INFINITY)
    mass_share = tl.where(top_p < 1.0, top_p, INFINITY)
    if wide & (count_share * SAMPLE >= _FEW) & ((top_k < vocab) | (top_p < 1.0)):
        x = sample_of(x_ptr + row * stride, vocab, SAMPLE)
        top = tl.max(x, 0)
        if top > -INFINITY:
            first, second, slack = by_sample(
                x, -INFINITY, top, scale_of(packed_ptr, row), mass_share, count_share
            )
            if slack < _SLACK:
                low, high = first, second
    tl.store(bounds_ptr + row * 2, low)
    tl.store(bounds_ptr + row * 2 + 1, high)


@triton.jit
def _masses(columns):
    """Of each group of a table, from the sums of its columns."""
    return tl.sum(tl.reshape(columns, (EACH, _WIDE)), 1)


@triton.jit(do_not_specialize=["rows"])
def _statistics(
    x_ptr, packed_ptr, bounds_ptr, best_ptr, peak_ptr, mass_ptr, above_ptr, number_ptr, rows, vocab, tables,
    stride, HEATED: tl.constexpr, MASSES: tl.constexpr, BOUNDED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """best, mass [rows, groups]; peak [rows, tables]: the largest of a table, to which its masses relate;
    above, number [rows, 2, tables]: the mass above each bound, and of how many tokens."""
    begin(OVERLAP)
    row = (tl.program_id(0) // tables).to(tl.int64)
    table = tl.program_id(0) % tables
    ids = table * TABLE + tl.arange(0, _ROWS)[:, None] * _COLUMNS + tl.arange(0, _COLUMNS)[None, :]
    x = tl.load(x_ptr + row * stride + ids, ids < vocab, other=-INFINITY).to(tl.float32)
    x = tl.where(x == x, x, INFINITY)  # the row of either has no token
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
        if BOUNDED and tl.load(bounds_ptr + row * 2) < INFINITY:
            for i in tl.static_range(2):
                over = (x > tl.load(bounds_ptr + row * 2 + i)).to(tl.float32)
                place = (row * 2 + i) * tables + table
                tl.store(above_ptr + place, tl.sum(tl.sum(over * weights, 0), 0))
                tl.store(number_ptr + place, tl.sum(tl.sum(over, 0), 0))


class Read:
    """What is known of logits [m, V] at the temperatures of the parameters or at 1, all float32.

    best [m, groups], peak [m, tables]: the largest logits. mass [m, groups]: the sums of exponentials,
    relative to the largest of the table; not written without `masses`. bounds, above, number: as the kernels
    say, of wide rows; None without `sample`, the number of tokens a guess is made from."""

    def __init__(
        self, logits: Tensor, parameters: SamplingParameters | None, *, masses: bool = True, sample: int = 0,
        warps: int = _STATISTICS_WARPS,
    ) -> None:  # fmt: skip
        rows, vocab = logits.shape
        device, tables = logits.device, cdiv(vocab, ROWS * COLUMNS)
        packed = None if parameters is None else parameters.packed
        self.best = torch.empty(rows, tables * COLUMNS // WIDE, dtype=torch.float32, device=device)
        self.peak = torch.empty(rows, tables, dtype=torch.float32, device=device)
        self.mass = torch.empty_like(self.best) if masses else self.best
        self.bounds = self.above = self.number = None
        if sample:
            self.bounds = torch.empty(rows, 2, dtype=torch.float32, device=device)
            self.above = torch.empty(rows, 2, tables, dtype=torch.float32, device=device)
            self.number = torch.empty_like(self.above)
            _guess[(rows,)](
                logits, packed, self.bounds, rows, vocab, logits.stride(0), SAMPLE=sample, num_warps=8,
                **overlapping(device, rows),
            )  # fmt: skip
        _statistics[(rows * tables,)](
            logits, packed, self.bounds, self.best, self.peak, self.mass, self.above, self.number, rows,
            vocab, tables, logits.stride(0), HEATED=parameters is not None, MASSES=masses,
            BOUNDED=sample > 0, num_warps=warps, **overlapping(device, rows * tables),
        )  # fmt: skip
