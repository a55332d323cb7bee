# SPDX-License-Identifier: Apache-2.0
"""`y = x Wᵀ + b` for a weight that stays while inputs come and go, so that it can be laid out once.

With few rows the product is bound by reading W. On a CPU, oneDNN reads a weight in its own blocked layout at
the memory's rate, and one stored row by row at half of it. Elsewhere the weight stays as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


class PackedWeight:
    """A weight [N, K], in whatever layout multiplies fast on its device; it cannot be read back.

    float32, and bfloat16 where the CPU multiplies it, are packed, which takes N x K elements of memory beside
    the weight given; everything else is kept by reference.
    """

    def __init__(self, weight: Tensor) -> None:
        self.outputs = weight.shape[0]
        self._packed = _is_packable(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach()) if self._packed else weight

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., K], bias [N] or None, of the weight's dtype -> [..., N]."""
        if not self._packed:
            return F.linear(x, self._weight, bias)
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.outputs)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")
        return product


def _is_packable(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or weight.numel() == 0 or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
