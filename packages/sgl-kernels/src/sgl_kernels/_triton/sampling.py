# SPDX-License-Identifier: Apache-2.0
"""Sampling in two kernels where no row is wide, and in four where one may be.

`sampling_read` reads the logits: of each group its largest and its mass. `sampling_draw` holds the races, and
ends rows that keep few tokens or all; `sampling_wide` ends the others, most of which it need not read again,
or only once.

What is guessed decides how long a row takes, never what is kept. Sums are made in an order that depends on
the row alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sgl_kernels._triton.overlap import overlapping
from sgl_kernels._triton.sampling_draw import _finish
from sgl_kernels._triton.sampling_read import Read
from sgl_kernels._triton.sampling_wide import LANES, _decide
from sgl_kernels._triton.sizes import next_power_of_2
from sgl_kernels.sampling import SamplingParameters


class Shape(NamedTuple):
    """What the kernels do at once, as measured on an H200; what is not measured yet is said in
    docs/performance.md."""

    finish_warps: int = 8
    chunk: int = 1024  # logits that a search of a whole narrow row looks at at once
    narrow_room: int = 2048  # logits that may be copied of a narrow row
    sample: int = 4096  # tokens of a wide row that guesses look at
    read_warps: int = 1  # of a program that reads a table
    decide_warps: int = 8
    decide_registers: int = 128  # of a thread: two programs share a multiprocessor
    slots: int = 8  # logits of each lane that may be copied of a wide row
    runs: int = 8  # 1,024 logits each, that are on their way at once


SHAPE = Shape()


def sample(logits: Tensor, parameters: SamplingParameters, shape: Shape = SHAPE) -> Tensor:
    rows, vocab = logits.shape
    packed, device, stride = parameters.packed, logits.device, logits.stride(0)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    if not rows:
        return tokens
    shift = {torch.bfloat16: 16, torch.float16: 13}.get(logits.dtype, 0)
    sampled = shape.sample if parameters.wide else 0
    read = Read(logits, parameters, masses=parameters.draws, sample=sampled, warps=shape.read_warps)
    groups, tables = read.best.shape[1], read.peak.shape[1]
    ng, nt = next_power_of_2(groups), next_power_of_2(tables)
    listed = dense = tokens  # not read without limits
    if parameters.limits:
        room = max(shape.narrow_room, shape.slots * LANES if parameters.wide else 0)
        listed = torch.empty(rows, 3, groups, dtype=torch.int32, device=device)
        dense = torch.empty(rows, room, dtype=logits.dtype, device=device)
    _finish[(rows,)](
        logits, packed, read.best, read.peak, read.mass, listed, dense, tokens, rows, vocab, tables, stride,
        DRAWS=parameters.draws, LIMITS=parameters.limits, NG=ng, NT=nt, CHUNK=shape.chunk,
        ROOM=shape.narrow_room, SHIFT=shift, num_warps=shape.finish_warps if parameters.limits else 4,
        **overlapping(device, rows),
    )  # fmt: skip
    if parameters.wide:
        _decide[(rows,)](
            logits, packed, read.best, read.peak, read.mass, read.bounds, read.above, read.number, listed,
            dense, tokens, rows, vocab, tables, stride, NG=ng, NT=nt, SAMPLE=sampled, SLOTS=shape.slots,
            RUNS=shape.runs, SHIFT=shift, num_warps=shape.decide_warps, maxnreg=shape.decide_registers,
            **overlapping(device, rows),
        )  # fmt: skip
    return tokens
