# SPDX-License-Identifier: Apache-2.0
"""Normalisation over the last dimension, alone and fused with the residual addition before it.

Sums are taken in float32 whatever the type of the input, and results are rounded once. Knows nothing of
layers: weights are arguments.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, check

_WIDEST = 1 << 16  # a row is normalised by one program, which holds it


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` over the last dimension.

    x [..., d] float32, float16 or bfloat16, of any strides but for the last dimension, which is contiguous;
    weight [d] contiguous, of x's dtype; d at most 65,536. Returns a fresh [..., d] in x's dtype, contiguous.
    Raises ValueError otherwise. Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    _check(x, weight)
    if kernels := fast("norm", x.device):
        return kernels.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight, eps)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`residual += x` in place, then `rms_norm(residual)`: what is normalised is the sum as it was rounded.

    residual: contiguous, of x's shape and dtype, sharing no memory with x. Otherwise as `rms_norm`.
    """
    _check(x, weight, residual)
    if kernels := fast("norm", x.device):
        return kernels.fused_add_rms_norm(x, residual, weight, eps)
    residual.add_(x)
    return F.rms_norm(residual, weight.shape, weight, eps)


def gemma_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * (1 + weight)`, the sum with 1 in float32.

    Otherwise as `rms_norm`. Source: Gemma Team, "Gemma: Open Models Based on Gemini Research and Technology",
    2024, and its published code.
    """
    _check(x, weight)
    if kernels := fast("norm", x.device):
        return kernels.gemma_rms_norm(x, weight, eps)
    return _gemma(x, weight, eps)


def fused_add_gemma_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`residual += x` in place, then `gemma_rms_norm(residual)`. Otherwise as `fused_add_rms_norm`."""
    _check(x, weight, residual)
    if kernels := fast("norm", x.device):
        return kernels.fused_add_gemma_rms_norm(x, residual, weight, eps)
    return _gemma(residual.add_(x), weight, eps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`(x - mean(x)) / sqrt(var(x) + eps) * weight + bias`, the variance that of the d elements (not d - 1).

    weight and bias [d] contiguous, of x's dtype; None leaves the factor or the sum out. Otherwise as
    `rms_norm`. Source: Ba, Kiros and Hinton, "Layer Normalization", 2016.
    """
    _check(x, weight)
    if bias is not None:
        check("bias", bias, x.shape[-1:], like=x, contiguous=True)
    if kernels := fast("norm", x.device):
        return kernels.layer_norm(x, weight, bias, eps)
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def _gemma(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    return (y * (1.0 + weight.float())).to(x.dtype)


def _check(x: Tensor, weight: Tensor | None, residual: Tensor | None = None) -> None:
    check("x", x, dtypes=FLOATS, rows=True)
    width = x.shape[-1] if x.dim() else 0
    if not 0 < width <= _WIDEST:
        raise ValueError(f"x: the last dimension must have 1 to {_WIDEST} elements: {list(x.shape)}")
    if weight is not None:
        check("weight", weight, (width,), like=x, contiguous=True)
    if residual is not None:
        check("residual", residual, x.shape, like=x, contiguous=True)
