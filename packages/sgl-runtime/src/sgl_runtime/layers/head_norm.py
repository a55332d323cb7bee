# SPDX-License-Identifier: Apache-2.0
"""Norms of single heads, which some models apply to queries and keys before they rotate."""

from __future__ import annotations

from sgl_kernels import gemma_rms_norm, layer_norm, rms_norm
from torch import Tensor, nn

from sgl_runtime.checkpoint.division import Span
from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard


class HeadRMSNorm(nn.Module):
    """[T, heads, head_dim] -> the same, fresh: every head normalised, all with one weight.

    gemma: the factor is 1 + weight.
    """

    def __init__(self, build: Build, head_dim: int, eps: float, *, gemma: bool = False) -> None:
        super().__init__()
        self.weight = Shard(((Part.whole(head_dim),),), build.dtype, build.device)
        self.eps = eps
        self.gemma = gemma

    def forward(self, x: Tensor) -> Tensor:
        return (gemma_rms_norm if self.gemma else rms_norm)(x, self.weight, self.eps)


class HeadLayerNorm(nn.Module):
    """[T, heads, head_dim] -> the same, fresh: layer normalisation of every head, each with a weight of its
    own.

    own: the heads of this rank. apart: a checkpoint stores a vector for each head, whose parts are named by
    number, and not one matrix.
    """

    def __init__(
        self, build: Build, heads: int, own: Span, head_dim: int, eps: float, *, apart: bool = False
    ) -> None:
        super().__init__()
        dims: tuple[tuple[Part, ...], ...] = ((Part(heads, own),), (Part.whole(head_dim),))
        if apart:
            of_head = (Span(0, head_dim if own.start <= head < own.stop else 0) for head in range(heads))
            dims = (tuple(Part(head_dim, span, head) for head, span in enumerate(of_head)),)
        self.weight = Shard(dims, build.dtype, build.device)
        self._eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, None, None, self._eps).mul_(self.weight.view(x.shape[1:]))
