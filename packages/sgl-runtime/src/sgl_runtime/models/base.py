# SPDX-License-Identifier: Apache-2.0
"""`Model`: what the runner asks of every architecture.

A model is tables and a forward pass. It does not load itself: `runner/weights.py` renames by `packed` and
fills each parameter once. It knows no request: a batch is flat tokens and `Inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from sgl_runtime.layers import AttentionSpec, Build, Inputs, PagedAttention


class Model(nn.Module):
    # Module name in the checkpoint -> (module name here, which of the tensors stacked in it).
    packed: ClassVar[Mapping[str, tuple[str, str | int]]] = {}
    # Endings of names that a checkpoint may store and that no parameter takes.
    skip: tuple[str, ...] = ()

    def __init__(self, build: Build) -> None:
        super().__init__()

    def attention_specs(self) -> list[AttentionSpec]:
        """One per layer of the KV pool, with this rank's heads."""
        layers = {
            module.layer: module.spec for module in self.modules() if isinstance(module, PagedAttention)
        }
        assert sorted(layers) == list(range(len(layers))), "attention layers are numbered from 0, each once"
        return [layers[layer] for layer in range(len(layers))]

    def forward(self, inputs: Inputs) -> Tensor:
        """The T tokens -> hidden states [T, hidden], ready for `logits`. Writes their keys and values."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocabulary], in the model's dtype. Every rank calls it with the same
        rows."""
        raise NotImplementedError
