# SPDX-License-Identifier: Apache-2.0
"""Token embeddings, divided over the ranks by vocabulary."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard


class Embedding(nn.Module):
    """[T] int64 -> [T, size], a fresh tensor, times `scale`. `weight` holds this rank's share of the
    vocabulary."""

    def __init__(self, build: Build, vocabulary: int, size: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self._scale = scale
        self._tp = build.tp
        self._own = build.share(vocabulary)
        self.weight = Shard(((Part(vocabulary, self._own),), (Part.whole(size),)), build.dtype, build.device)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self._look_up(tokens)
        return x if self._scale == 1.0 else x.mul_(self._scale)

    def _look_up(self, tokens: Tensor) -> Tensor:
        if self._tp.size == 1:
            return functional.embedding(tokens, self.weight)
        local = tokens - self._own.start
        elsewhere = (local < 0) | (local >= self._own.length)
        x = functional.embedding(local.masked_fill_(elsewhere, 0), self.weight)
        return self._tp.all_reduce(x.masked_fill_(elsewhere.unsqueeze(-1), 0))
