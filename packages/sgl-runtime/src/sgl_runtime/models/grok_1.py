# SPDX-License-Identifier: Apache-2.0
"""Grok-1, in the format of its published conversion: norms before and after attention and experts, capped
scores, and scaled embeddings, scores and logits."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.layers import Build, Embedding, LogitsHead, MoE, Router
from sgl_runtime.models import gemma2, llama
from sgl_runtime.models.base import packed_experts

_EXPERTS = ("num_experts", "num_local_experts")
_NORMS = {
    "input_layernorm": "pre_attn_norm",
    "post_attention_layernorm": "post_attn_norm",
    "pre_feedforward_layernorm": "pre_moe_norm",
    "post_feedforward_layernorm": "post_moe_norm",
    "model.norm": "model.norm",
}


class Grok1ModelForCausalLM(llama.LlamaForCausalLM):
    paths: ClassVar = {
        "self_attn": "attn",
        "mlp": "moe_block",
        **{f"{ours}.weight": f"{theirs}.scale" for ours, theirs in _NORMS.items()},
    }
    tied: ClassVar = True

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        experts = build.config.own.integer(_EXPERTS)
        names = (f"experts.{{}}.{name}" for name in ("linear", "linear_v", "linear_1"))
        self.packed = self.packed | packed_experts(experts, *names)  # type: ignore[misc]

    def decoder(self, build: Build) -> llama.Decoder:
        scale = build.config.own.number("embedding_multiplier_scale", 1.0)
        return llama.Decoder(build, self.block, self.norm(build), embedding_scale=scale)

    def block(self, build: Build, layer: int) -> nn.Module:
        return gemma2.Block(
            self.norm(build),
            self.attention(build, layer),
            self.norm(build),
            self.norm(build),
            self.mlp(build, layer),
            self.norm(build),
        )

    def attention(self, build: Build, layer: int) -> nn.Module:
        own = build.config.own
        scale, softcap = own.number("attn_output_multiplier", 1.0), own.number("max_attn_value", 30.0)
        return llama.Attention(build, layer, scale=scale, softcap=softcap)

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        experts, top_k = c.own.integer(_EXPERTS), c.own.integer("num_experts_per_tok")
        gate = Router(build, c.hidden_size, experts, top_k, precise=True, renormalise=False)
        # The gelu of the JAX code that it was published with, whatever a conversion says.
        return MoE(build, gate, c.hidden_size, experts, c.intermediate_size, "gelu_pytorch_tanh")

    def head(self, build: Build, tied: Embedding | None) -> LogitsHead:
        c = build.config
        scale = c.own.number("output_multiplier_scale", 1.0)
        return LogitsHead(build, c.vocab_size, c.hidden_size, tied=tied, scale=scale)


TINY = {
    name: value for name, value in llama.TINY.items() if name not in ("head_dim", "tie_word_embeddings")
} | {
    "model_type": "grok-1",
    "architectures": ["Grok1ModelForCausalLM"],
    "hidden_size": 96,
    "intermediate_size": 29,
    "num_experts": 5,
    "num_experts_per_tok": 2,
    "attn_output_multiplier": 0.3,
    "max_attn_value": 8.0,
    "embedding_multiplier_scale": 2.5,
    "output_multiplier_scale": 0.6,
}
