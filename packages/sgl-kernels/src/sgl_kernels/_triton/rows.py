# SPDX-License-Identifier: Apache-2.0
"""How kernels that work row by row see a tensor of any number of dimensions."""

from __future__ import annotations

from torch import Tensor


def rows_of(x: Tensor) -> tuple[Tensor, int, int, int]:
    """(x, inner, outer stride, inner stride): row r of x begins at element r // inner * outer + r % inner *
    inner stride.

    x [..., d]. It is copied only if its leading dimensions are not two strides apart.
    """
    if x.dim() > 3:
        x = x.reshape(-1, *x.shape[-2:])
    if x.dim() < 3:
        return x, 1, x.stride(0) if x.dim() == 2 else 0, 0
    outer, inner, _ = x.shape
    if outer == 1:
        return x, 1, x.stride(1), 0
    if inner == 1 or x.stride(0) == inner * x.stride(1):
        return x, 1, x.stride(0) if inner == 1 else x.stride(1), 0
    return x, inner, x.stride(0), x.stride(1)
