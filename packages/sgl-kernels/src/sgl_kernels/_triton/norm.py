# SPDX-License-Identifier: Apache-2.0
"""Norms: a program holds whole rows in registers, so that each is read once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.rows import rows_of
from sgl_kernels._triton.sizes import cdiv, next_power_of_2


class Tile(NamedTuple):
    """rows and warps of a program."""

    rows: int
    warps: int


@triton.jit(do_not_specialize=["rows", "inner"])
def _norm(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, out_ptr, rows, inner, outer_stride, inner_stride, eps,
    WIDTH: tl.constexpr, ADD: tl.constexpr, CENTRED: tl.constexpr, ONE_MORE: tl.constexpr,
    HAS_WEIGHT: tl.constexpr, HAS_BIAS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """ADD: the sum with the residual is stored there and normalised. CENTRED: the mean is taken off.
    ONE_MORE: the factor is 1 + weight. The leading dimensions of x are [rows / inner, inner]."""
    begin(OVERLAP)
    column = tl.arange(0, COLUMNS)
    inside = column < WIDTH
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    ours = (row < rows)[:, None]
    if WIDTH != COLUMNS:
        ours &= inside[None, :]
    at = x_ptr + ((row // inner) * outer_stride + (row % inner) * inner_stride)[:, None] + column[None, :]
    here = row[:, None] * WIDTH + column[None, :]
    # Everything is read before anything is written: a load behind a store would wait for it.
    x = tl.load(at, ours, other=0.0, eviction_policy="evict_first")
    if ADD:
        residual = tl.load(residual_ptr + here, ours, other=0.0, eviction_policy="evict_first")
    if HAS_WEIGHT:
        weight = tl.load(weight_ptr + column, inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
        if ONE_MORE:
            weight += 1.0
    if HAS_BIAS:
        bias = tl.load(bias_ptr + column, inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
    if ADD:
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(residual_ptr + here, x, ours)
    y = x.to(tl.float32)
    if CENTRED:
        y -= (tl.sum(y, 1) / WIDTH)[:, None]
        if WIDTH != COLUMNS:
            y = tl.where(inside[None, :], y, 0.0)
    y *= tl.rsqrt(tl.sum(y * y, 1) / WIDTH + eps)[:, None]
    if HAS_WEIGHT:
        y *= weight[None, :]
    if HAS_BIAS:
        y += bias[None, :]
    tl.store(out_ptr + here, y, ours)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return launch(x, None, weight, None, eps)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    return launch(x, residual, weight, None, eps)


def gemma_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return launch(x, None, weight, None, eps, one_more=True)


def fused_add_gemma_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    return launch(x, residual, weight, None, eps, one_more=True)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    return launch(x, None, weight, bias, eps, centred=True)


def launch(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    *,
    centred: bool = False,
    one_more: bool = False,
    tile: Tile | None = None,
) -> Tensor:
    width = x.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if not out.numel():
        return out
    rows = out.numel() // width
    x, inner, *strides = rows_of(x)
    tile = tile or tile_for(rows, width, residual is not None)
    programs = cdiv(rows, tile.rows)
    _norm[(programs,)](
        x, residual, weight, bias, out, rows, inner, *strides, eps,
        WIDTH=width, ADD=residual is not None, CENTRED=centred, ONE_MORE=one_more,
        HAS_WEIGHT=weight is not None, HAS_BIAS=bias is not None,
        ROWS=tile.rows, COLUMNS=next_power_of_2(width), num_warps=tile.warps,
        **overlapping(x.device, programs),
    )  # fmt: skip
    return out


def tile_for(rows: int, width: int, added: bool) -> Tile:
    """The tile measured to be fastest: sixteen elements for each thread, or twice as many where there are
    several in flight anyway (a residual), few rows, or padding among them."""
    columns = next_power_of_2(width)
    if columns <= 2048:
        return Tile(2048 // columns, 4)
    return Tile(1, min(32, columns // (1024 if added or rows <= 1024 or width < columns else 512)))
