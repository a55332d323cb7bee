# SPDX-License-Identifier: Apache-2.0
"""From hidden states to logits over the vocabulary, with a matrix of its own or that of the embedding."""

from __future__ import annotations

from sgl_kernels import PackedWeight
from torch import Tensor, nn

from sgl_runtime.checkpoint.division import share
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.embedding import Embedding
from sgl_runtime.parallel.shard import Part, Shard


class LogitsHead(nn.Module):
    """[rows, hidden] -> [rows, vocabulary] in the model's dtype; each rank computes its share of the
    vocabulary.

    scale multiplies the logits; with a softcap they then become softcap * tanh(logits / softcap).
    """

    def __init__(
        self,
        build: Build,
        vocabulary: int,
        size: int,
        *,
        tied: Embedding | None,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        self._tp = build.tp
        self._sizes = [share(vocabulary, rank, build.tp.size).length for rank in range(build.tp.size)]
        own = Part(vocabulary, build.share(vocabulary))
        # A tied head owns no parameter: the embedding's is loaded and counted once, there.
        self.weight = (
            Shard(((own,), (Part.whole(size),)), build.dtype, build.device) if tied is None else None
        )
        self._tied = (tied,)
        self._scale = scale
        self._softcap = softcap
        self._packed: PackedWeight | None = None

    def finish(self) -> None:
        """Every parameter is loaded: lay the matrix out for multiplication."""
        (tied,) = self._tied
        weight = self.weight if tied is None else tied.weight
        assert weight is not None
        self._packed = PackedWeight(weight)
        self.weight = None

    def forward(self, hidden: Tensor) -> Tensor:
        assert self._packed is not None, "finish() comes before the first pass"
        logits = self._packed.multiply(hidden)
        if self._scale != 1.0:
            logits.mul_(self._scale)
        if self._softcap is not None:
            logits.div_(self._softcap).tanh_().mul_(self._softcap)
        return self._tp.all_gather(logits, self._sizes)
