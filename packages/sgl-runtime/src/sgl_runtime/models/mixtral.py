# SPDX-License-Identifier: Apache-2.0
"""Mixtral: Mistral whose MLP is a mixture of experts."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.layers import Build, MoE, Router
from sgl_runtime.models import llama
from sgl_runtime.models.base import packed_experts


class MixtralForCausalLM(llama.LlamaForCausalLM):
    paths: ClassVar = {"mlp": "block_sparse_moe"}

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        experts = build.config.own.integer("num_local_experts")
        names = (f"experts.{{}}.{name}" for name in ("w1", "w3", "w2"))
        self.packed = self.packed | packed_experts(experts, *names)  # type: ignore[misc]

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        experts, top_k = c.own.integer("num_local_experts"), c.own.integer("num_experts_per_tok")
        gate = Router(build, c.hidden_size, experts, top_k)
        return MoE(build, gate, c.hidden_size, experts, c.intermediate_size, c.hidden_act)


TINY = llama.TINY | {
    "model_type": "mixtral",
    "architectures": ["MixtralForCausalLM"],
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "tie_word_embeddings": False,
}
