# SPDX-License-Identifier: Apache-2.0
"""`y = x Wᵀ + b`, which with few rows is bound by reading W.

On a GPU, up to `SMALL_BATCH` rows get kernels of their own, since the library's product leaves bandwidth
unused there. On a CPU, oneDNN reads a weight in its own blocked layout at the memory's rate, and one stored
row by row at half of it: `PackedWeight` lays out once a weight that stays while inputs come and go.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import check, require

SMALL_BATCH = 32  # rows
_HALVES = (torch.bfloat16, torch.float16)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., K], weight [N, K], bias [N] or None, of one floating-point dtype and device -> [..., N], fresh.

    Elements of the last dimension lie side by side in each. Products of float16 and bfloat16 are summed in
    float32. Raises ValueError for anything else.
    """
    require(x.is_floating_point() and x.dim() > 0, "x", "must be a floating-point tensor with a dimension")
    check("weight", weight, (None, x.shape[-1]), like=x, rows=True)
    check("x", x, rows=True)
    if bias is not None:
        check("bias", bias, (weight.shape[0],), like=x, rows=True)
    return _multiply(x, weight, bias, overlap=False)


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None, *, overlap: bool) -> Tensor:
    k, n = x.shape[-1], weight.shape[0]
    small = 0 < x.numel() <= SMALL_BATCH * k and n > 0 and x.dtype in _HALVES
    if small and (kernels := fast("linear", x.device)):
        out: Tensor | None = kernels.small_linear(x.reshape(-1, k), weight, bias, overlap=overlap)
        if out is not None:
            return out.view(*x.shape[:-1], n)
    return F.linear(x, weight, bias)


class PackedWeight:
    """A weight [N, K], in whatever layout multiplies fast on its device; it cannot be read back.

    float32, and bfloat16 where the CPU multiplies it, are packed, which takes N x K elements of memory beside
    the weight given; everything else is kept by reference, and must not be written any more: on a GPU a
    product may fetch it while the kernels before it still run.
    """

    def __init__(self, weight: Tensor) -> None:
        require(weight.is_floating_point(), "weight", f"must be of floating point, not {weight.dtype}")
        check("weight", weight, (None, None), rows=True)
        self.outputs, self.inputs = weight.shape
        self._like = weight.new_empty(0)  # of its dtype and device
        self._packed = _is_packable(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach()) if self._packed else weight
        if weight.device.type == "cuda":
            torch.cuda.current_stream(weight.device).synchronize()  # what writes it has ended

    def multiply(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """x [..., K], bias [N] or None, of the weight's dtype and device -> [..., N], a fresh tensor.

        Elements of the last dimension of x and bias lie side by side. Raises ValueError otherwise.
        """
        check("x", x, like=self._like, rows=True)
        if x.dim() == 0 or x.shape[-1] != self.inputs:
            raise ValueError(f"x: the last dimension must be {self.inputs}: {list(x.shape)}")
        if bias is not None:
            check("bias", bias, (self.outputs,), like=self._like, rows=True)
        if not self._packed:
            return _multiply(x, self._weight, bias, overlap=True)
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
