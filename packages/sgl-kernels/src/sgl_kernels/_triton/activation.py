# SPDX-License-Identifier: Apache-2.0
"""Gated activations: a program makes a stretch of one row's output, of gate and up at the same place."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.rows import rows_of
from sgl_kernels._triton.sizes import cdiv


class Tile(NamedTuple):
    """columns: outputs of a program; warps: of a program."""

    columns: int
    warps: int


TILE = Tile(1024, 4)  # 16 bytes of gate and of up for each thread


@triton.jit(do_not_specialize=["inner"])
def _gated(
    x_ptr, out_ptr, width, inner, outer_stride, inner_stride,
    KIND: tl.constexpr, COLUMNS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    across = tl.cdiv(width, COLUMNS)
    row = (tl.program_id(0) // across).to(tl.int64)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < width
    at = x_ptr + (row // inner) * outer_stride + (row % inner) * inner_stride + column
    gate = tl.load(at, inside, eviction_policy="evict_first").to(tl.float32)
    up = tl.load(at + width, inside, eviction_policy="evict_first").to(tl.float32)
    if KIND == "silu":
        active = gate * tl.sigmoid(gate)
    elif KIND == "none":
        active = gate * 0.5 * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        cubic = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        active = gate * tl.sigmoid(2.0 * cubic)  # 0.5 * (1 + tanh(cubic))
    tl.store(out_ptr + row * width + column, active * up, inside)


def silu_and_mul(x: Tensor) -> Tensor:
    return launch(x, "silu")


def gelu_and_mul(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    return launch(x, approximate)


def launch(x: Tensor, kind: str, tile: Tile = TILE) -> Tensor:
    width = x.shape[-1] // 2
    out = torch.empty(*x.shape[:-1], width, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows = out.numel() // width
    x, inner, *strides = rows_of(x)
    programs = rows * cdiv(width, tile.columns)
    _gated[(programs,)](
        x, out, width, inner, *strides, KIND=kind, COLUMNS=tile.columns, num_warps=tile.warps,
        **overlapping(x.device, programs),
    )  # fmt: skip
    return out
