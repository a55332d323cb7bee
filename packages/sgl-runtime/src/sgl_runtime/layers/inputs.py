# SPDX-License-Identifier: Apache-2.0
"""`Inputs`: everything one forward pass may know. Made by the runner from a `Batch`, read by the layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sgl_kernels.attention import AttentionBackend, Plan
from torch import Tensor

from sgl_runtime.layers.kv import KVPool


@dataclass(frozen=True)
class Inputs:
    """The T tokens of a batch, request after request, on the device."""

    tokens: Tensor  # [T] int32, in [0, vocabulary)
    positions: Tensor  # [T] int32
    slots: Tensor  # [T] int32: where in the pool their keys and values go; -1: nowhere
    kv: KVPool
    attention: AttentionBackend
    plans: Sequence[Plan]  # one per layer; layers of one spec share theirs
    # [w] int32, ascending: the tokens whose hidden states anybody asks for. None: all, or nobody knows yet.
    asked: Tensor | None = None

    def only_asked(self, x: Tensor) -> Tensor:
        """[T, …], or [w, …] already -> [w, …]: for a last layer whose attention is done. Of all other tokens,
        keys and values are all that counts."""
        return x if self.asked is None or len(x) == len(self.asked) else x.index_select(0, self.asked)
