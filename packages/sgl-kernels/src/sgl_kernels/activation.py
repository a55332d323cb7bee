# SPDX-License-Identifier: Apache-2.0
"""Gated activations: the first half of the last dimension is activated and multiplied with the second.

The halves come from one projection of twice the width, so that a layer multiplies its input once.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor


def silu_and_mul(x: Tensor) -> Tensor:
    """`silu(gate) * up` for x = [gate | up]: [..., 2d] -> [..., d], same dtype.

    Source: Shazeer, "GLU Variants Improve Transformer", 2020 (SwiGLU).
    """
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def gelu_and_mul(x: Tensor, *, approximate: Literal["none", "tanh"] = "none") -> Tensor:
    """`gelu(gate) * up` for x = [gate | up]: [..., 2d] -> [..., d], same dtype.

    approximate: "none" has the error function, "tanh" the approximation that configs call
    `gelu_pytorch_tanh`. Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016; Shazeer as above
    (GEGLU).
    """
    gate, up = x.chunk(2, dim=-1)
    return F.gelu(gate, approximate=approximate).mul_(up)
