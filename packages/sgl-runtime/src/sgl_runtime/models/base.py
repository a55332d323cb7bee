# SPDX-License-Identifier: Apache-2.0
"""`Model`: what the runner asks of every architecture.

A model is tables and a forward pass. It does not load itself: `runner/weights.py` renames by `packed` and
fills each parameter once. It knows no request: a batch is flat tokens and `Inputs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from torch import Tensor, nn

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.layers import AttentionSpec, Build, Inputs, LogitsHead, PagedAttention, normalise
from sgl_runtime.messages import Answers
from sgl_runtime.parallel.shard import PartName


@dataclass(frozen=True)
class Joined:
    """One tensor of a checkpoint that holds several of those that are stacked in a parameter, in this order.

    by_kv_head: it is one block after another for each KV head, and every block holds its share of each part.
    along: the dimension along which it holds them; None: that along which they are stacked here.
    transposed: with the dimensions of each exchanged.
    """

    parts: tuple[PartName, ...]
    by_kv_head: bool = False
    along: int | None = None
    transposed: bool = False


Packed: TypeAlias = Mapping[str, tuple[str, str | int | Joined]]


def packed_experts(
    experts: int, gate: str, up: str, down: str, *, shared: int = 0, shared_name: str = ""
) -> dict[str, tuple[str, str | int | Joined]]:
    """`Model.packed` of a `MoE`, for a checkpoint that stores one matrix after another.

    gate, up and down name a matrix of one expert, with {} for its number. The shared experts are stored as
    one MLP that is so many times as wide, called `shared_name`.
    """
    packed: dict[str, tuple[str, str | int | Joined]] = {}
    for kind, module, name in (
        ("gate", "gate_up_experts", gate),
        ("up", "gate_up_experts", up),
        ("down", "down_experts", down),
    ):
        packed |= {name.format(expert): (module, f"{kind}.{expert}") for expert in range(experts)}
        if shared:
            parts = tuple(f"{kind}.{expert}" for expert in range(experts, experts + shared))
            along = 1 if kind == "down" else None
            packed[f"{shared_name}.{kind}_proj"] = (module, Joined(parts, along=along))
    return packed


class Model(nn.Module):
    # Last module name in the checkpoint -> (module name here, which of the tensors stacked in it).
    packed: ClassVar[Packed] = {}
    # Path of a module or tensor here -> in the checkpoint, where they differ. Parts of a path will do:
    # "self_attn" renames that module in every layer. Each piece is renamed once, by the longest entry that
    # fits.
    paths: ClassVar[Mapping[str, str]] = {}
    # Endings of names that a checkpoint may store and that no parameter takes.
    skip: tuple[str, ...] = ()
    skip_under: tuple[str, ...] = ()  # beginnings of such names
    answers: Answers = "text"
    # Whether the logits use the embedding's matrix when the config does not say.
    tied: ClassVar[bool] = False

    def __init__(self, build: Build) -> None:
        super().__init__()
        self.config = build.config

    @classmethod
    def is_tied(cls, config: ModelConfig) -> bool:
        """Do the logits use the embedding's matrix?"""
        return config.tie_embeddings or (cls.tied and not config.own.has("tie_word_embeddings"))

    def drop_head(self) -> None:
        """Answer with embeddings from now on, without a matrix for logits. Called before it is loaded."""
        self.answers = "embeddings"
        for name, module in list(self.named_children()):
            if isinstance(module, LogitsHead):
                delattr(self, name)
                self.skip = (*self.skip, f"{self.paths.get(name, name)}.weight")

    def attention_specs(self) -> list[AttentionSpec]:
        """One per layer of the KV pool, with this rank's heads."""
        layers = {
            module.layer: module.spec for module in self.modules() if isinstance(module, PagedAttention)
        }
        assert sorted(layers) == list(range(len(layers))), "attention layers are numbered from 0, each once"
        return [layers[layer] for layer in range(len(layers))]

    def products_of_layers(self) -> int:
        """Multiplications that a token costs on this rank, but for attention and logits."""
        return sum(getattr(module, "products", 0) for module in self.modules())

    def forward(self, inputs: Inputs) -> Tensor:
        """The T tokens -> hidden states [T, hidden], or [w, hidden] of those asked for (see `Inputs`), ready
        for `logits`. Writes keys and values of all T."""
        raise NotImplementedError

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, vocabulary], in the model's dtype. Every rank calls it with the same
        rows."""
        raise NotImplementedError

    def pool(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] of the last tokens of requests -> [rows, size] float32: what a model answers that
        does not generate text, by default an embedding. Called as `logits`."""
        return normalise(hidden)
