# SPDX-License-Identifier: Apache-2.0
"""Qwen 1.5 MoE and Qwen 2 MoE: Qwen 2 whose MLP is a mixture of experts, beside a shared one that a gate
weighs; single layers may keep an MLP."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, MoE, Router
from sgl_runtime.models import qwen2
from sgl_runtime.models.base import packed_experts

_EXPERTS = ("num_experts", "num_local_experts")  # as published, and as transformers may write it


class Qwen2MoeForCausalLM(qwen2.Qwen2ForCausalLM):
    sharing: ClassVar = True  # is there a shared expert?

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        own = build.config.own
        self.packed = self.packed | packed_experts(  # type: ignore[misc]  # of this model's numbers
            own.integer(_EXPERTS),
            *(f"experts.{{}}.{name}_proj" for name in ("gate", "up", "down")),
            shared=self.shared(build),
            shared_name="shared_expert",
        )

    def shared(self, build: Build) -> int:
        """The width of the shared expert, in experts."""
        if not self.sharing:
            return 0
        own = build.config.own
        width, shared = own.integer("moe_intermediate_size"), own.integer("shared_expert_intermediate_size")
        if shared % width:
            raise ConfigError(
                f"config.json: shared_expert_intermediate_size must be a multiple of moe_intermediate_size, "
                f"{width}, not {shared}",
                param="shared_expert_intermediate_size",
            )
        return shared // width

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        dense = c.raw.get("mlp_only_layers") or ()
        if layer in dense or (layer + 1) % c.own.integer("decoder_sparse_step", 1):
            return super().mlp(build, layer)
        experts, top_k = c.own.integer(_EXPERTS), c.own.integer("num_experts_per_tok")
        renormalise = c.own.boolean("norm_topk_prob", False)
        return MoE(
            build,
            Router(build, c.hidden_size, experts, top_k, renormalise=renormalise),
            c.hidden_size,
            experts,
            c.own.integer("moe_intermediate_size"),
            c.hidden_act,
            shared=self.shared(build),
            shared_gate=self.sharing,
        )


TINY = qwen2.TINY | {
    "model_type": "qwen2_moe",
    "architectures": ["Qwen2MoeForCausalLM"],
    "use_sliding_window": False,
    "num_hidden_layers": 3,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 15,
    "shared_expert_intermediate_size": 30,
    "mlp_only_layers": [1],
    "norm_topk_prob": False,
    "tie_word_embeddings": False,
}
