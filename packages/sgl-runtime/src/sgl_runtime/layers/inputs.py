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
    # [w] int32, ascending: the tokens that a layer's attention answers for; None: all T.
    asked: Tensor | None = None
    # What a last layer gets instead, if fewer are asked for: with `asked`, and a plan for their queries.
    last: Inputs | None = None

    @property
    def of_last_layer(self) -> Inputs:
        """Of tokens that nobody asks for, keys and values are all that counts there."""
        return self.last or self

    def only_asked(self, x: Tensor) -> Tensor:
        """[T, …], or [w, …] already -> [w, …]."""
        return x if self.asked is None or len(x) == len(self.asked) else x.index_select(0, self.asked)
