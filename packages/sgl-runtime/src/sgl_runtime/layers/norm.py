# SPDX-License-Identifier: Apache-2.0
"""Root mean square normalisation, with the residual stream carried beside the hidden states.

A block never adds its result to the residual itself: the next norm does both in one pass over the memory.
"""

from __future__ import annotations

from sgl_kernels import fused_add_rms_norm, rms_norm
from torch import Tensor, nn

from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard


class RMSNorm(nn.Module):
    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self.weight = Shard(((Part.whole(size),),), build.dtype, build.device)
        self._eps = eps

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """x [T, size], what the last block added -> (normalised sum, sum). The residual is updated in place.

        Without a residual, `x` is the first of it.
        """
        if residual is None:
            return rms_norm(x, self.weight, self._eps), x
        return fused_add_rms_norm(x, residual, self.weight, self._eps), residual
