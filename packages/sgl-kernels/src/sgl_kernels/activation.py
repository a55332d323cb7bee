# SPDX-License-Identifier: Apache-2.0
"""Gated activations: the first half of the last dimension is activated and multiplied with the second.

The halves come from one projection of twice the width, so that a layer multiplies its input once.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, check, require


def silu_and_mul(x: Tensor) -> Tensor:
    """`silu(gate) * up` for x = [gate | up]: [..., 2d] -> [..., d], same dtype, a fresh tensor.

    x is float32, float16 or bfloat16; its last dimension is contiguous. Raises ValueError otherwise.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020 (SwiGLU).
    """
    _check(x)
    if kernels := fast("activation", x.device):
        return kernels.silu_and_mul(x)
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def gelu_and_mul(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """`gelu(gate) * up` for x = [gate | up]: [..., 2d] -> [..., d], same dtype, a fresh tensor.

    approximate: "none" has the error function, "tanh" the approximation that configs call
    `gelu_pytorch_tanh`. Otherwise as `silu_and_mul`. Source: Hendrycks and Gimpel, "Gaussian Error Linear
    Units", 2016; Shazeer as above (GEGLU).
    """
    _check(x)
    require(approximate in ("none", "tanh"), "approximate", f"must be 'none' or 'tanh', not {approximate!r}")
    if kernels := fast("activation", x.device):
        return kernels.gelu_and_mul(x, approximate=approximate)
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate=approximate).mul_(up)


def _check(x: Tensor) -> None:
    check("x", x, dtypes=FLOATS, rows=True)
    if not x.dim() or x.shape[-1] % 2:
        raise ValueError(f"x: the last dimension must be even: {list(x.shape)}")
