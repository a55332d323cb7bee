# SPDX-License-Identifier: Apache-2.0
"""The other norms that stand where `RMSNorm` may stand: Gemma's, and layer normalisation."""

from __future__ import annotations

from sgl_kernels import fused_add_gemma_rms_norm, gemma_rms_norm, layer_norm
from torch import Tensor, nn

from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard


class GemmaRMSNorm(nn.Module):
    """`RMSNorm` whose factor is 1 + weight."""

    def __init__(self, build: Build, size: int, eps: float) -> None:
        super().__init__()
        self.weight = Shard(((Part.whole(size),),), build.dtype, build.device)
        self._eps = eps

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `RMSNorm.forward`."""
        if residual is None:
            return gemma_rms_norm(x, self.weight, self._eps), x
        return fused_add_gemma_rms_norm(x, residual, self.weight, self._eps), residual


class LayerNorm(nn.Module):
    """With a factor, and with or without a bias."""

    bias: Shard | None

    def __init__(self, build: Build, size: int, eps: float, *, bias: bool) -> None:
        super().__init__()
        self.weight = Shard(((Part.whole(size),),), build.dtype, build.device)
        own = Shard(((Part.whole(size),),), build.dtype, build.device) if bias else None
        self.register_parameter("bias", own)
        self._eps = eps

    def forward(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """As `RMSNorm.forward`."""
        if residual is None:
            return layer_norm(x, self.weight, self.bias, self._eps), x
        residual.add_(x)
        return layer_norm(residual, self.weight, self.bias, self._eps), residual
