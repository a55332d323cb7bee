# SPDX-License-Identifier: Apache-2.0
"""Sampling in two kernels where no row keeps many tokens, and in a few more where one may.

`sampling_read` reads the logits, once: of each group its largest and its mass. `sampling_draw` holds the
races. Rows that are limited, but not to a small top_k, are wide: a guess from a sample of the row says from
which logits on masses are summed in the same read, and nearly all rows are decided by these. The few that are
not are read again from better bounds, at most `Shape.turns` times; what then is left is searched by one
program a row.

A guess decides how long a row takes, never what is kept. Sums are made in an order that depends on the row
alone."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from sgl_kernels._triton.overlap import overlapping
from sgl_kernels._triton.sampling_draw import _decide, _finish
from sgl_kernels._triton.sampling_read import STATISTICS_WARPS, Read
from sgl_kernels.sampling import SamplingParameters


class Shape(NamedTuple):
    """What the kernels do at once, as measured on an H200; what is not measured yet is said in
    docs/performance.md."""

    finish_warps: int = 8
    chunk: int = 1024  # logits that a search of a whole narrow row looks at at once
    narrow_room: int = 2048  # logits that may be copied of a narrow row
    sample: int = 4096  # tokens of a wide row that the guess looks at
    read_warps: int = 1  # of a program that sums from bounds on
    decide_warps: int = 8
    wide_chunk: int = 4096
    room: int = 2048
    turns: int = 2  # how often wide rows may be read again


SHAPE = Shape()


def sample(logits: Tensor, parameters: SamplingParameters, shape: Shape = SHAPE) -> Tensor:
    rows, vocab = logits.shape
    packed, device, stride = parameters.packed, logits.device, logits.stride(0)
    tokens = torch.empty(rows, dtype=torch.int32, device=device)
    if not rows:
        return tokens
    shift = {torch.bfloat16: 16, torch.float16: 13}.get(logits.dtype, 0)
    sampled = shape.sample if parameters.wide else 0
    warps = shape.read_warps if parameters.wide else STATISTICS_WARPS
    read = Read(logits, parameters, masses=parameters.draws, sample=sampled, shift=shift, warps=warps)
    groups, tables = read.best.shape[1], read.peak.shape[1]
    ng, nt = triton.next_power_of_2(groups), triton.next_power_of_2(tables)
    listed = dense = tokens  # not read without limits
    if parameters.limits:
        listed = torch.empty(rows, 2, groups, dtype=torch.int32, device=device)
        dense = torch.empty(rows, max(shape.narrow_room, shape.room), dtype=logits.dtype, device=device)
    _finish[(rows,)](
        logits, packed, read.best, read.peak, read.mass, listed, dense, tokens, rows, vocab, tables, stride,
        DRAWS=parameters.draws, LIMITS=parameters.limits, NG=ng, NT=nt, CHUNK=shape.chunk,
        ROOM=shape.narrow_room, SHIFT=shift, num_warps=shape.finish_warps if parameters.limits else 4,
        **overlapping(device, rows),
    )  # fmt: skip
    for turn in range(1 + shape.turns if parameters.wide else 0):
        if turn:
            read.again(shape.read_warps)
        _decide[(rows,)](
            logits, packed, read.best, read.peak, read.mass, read.bounds, read.kept, read.number, listed,
            dense, tokens, rows, vocab, tables, stride, FIRST=turn == 0, LAST=turn == shape.turns, NG=ng,
            NT=nt, CHUNK=shape.wide_chunk, ROOM=shape.room, SHIFT=shift, num_warps=shape.decide_warps,
            **overlapping(device, rows),
        )  # fmt: skip
    return tokens
