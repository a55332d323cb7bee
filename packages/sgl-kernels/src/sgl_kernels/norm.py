# SPDX-License-Identifier: Apache-2.0
"""Normalisation over the last dimension, alone and fused with the residual addition before it.

Sums are taken in float32 whatever the type of the input. Knows nothing of layers: weights are arguments.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / sqrt(mean(x²) + eps) * weight` over the last dimension.

    x [..., d], weight [d], both of one dtype; returns [..., d] in x.dtype, rounded once.
    Source: Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019.
    """
    return F.rms_norm(x, weight.shape, weight, eps)


def fused_add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`residual += x` in place, then `rms_norm(residual)`.

    x and residual [..., d], weight [d], all of one dtype; returns [..., d].
    """
    residual.add_(x)
    return rms_norm(residual, weight, eps)
