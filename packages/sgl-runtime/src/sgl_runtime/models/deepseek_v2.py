# SPDX-License-Identifier: Apache-2.0
"""DeepSeek V2 and V2-Lite: DeepSeek MoE with multi-head latent attention, and experts chosen from the best
groups of them in the larger one."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import msgspec
from torch import nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, LatentAttention, LatentShape, Rotary, Router
from sgl_runtime.models import deepseek, llama


class DeepseekV2ForCausalLM(deepseek.DeepseekForCausalLM):
    packed: ClassVar = llama.LlamaForCausalLM.packed | {
        "q_proj": ("qkv_a_proj", "q"),
        "q_a_proj": ("qkv_a_proj", "q_a"),
        "kv_a_proj_with_mqa": ("qkv_a_proj", "kv_a"),
    }

    def decoder(self, build: Build) -> llama.Decoder:
        c = build.config
        rope = msgspec.structs.replace(c.rope, rotary_dim=c.own.integer("qk_rope_head_dim"))
        interleaved = c.own.boolean("rope_interleave", True)
        rotary = Rotary(build, rope, interleaved=interleaved)
        return llama.Decoder(build, self.block, self.norm(build), rotary=rotary)

    def attention(self, build: Build, layer: int) -> nn.Module:
        c, own = build.config, build.config.own
        q_rank = own.integer("q_lora_rank") if own.has("q_lora_rank") else None
        if q_rank is None and c.attention_bias:
            raise ConfigError(
                "config.json: attention_bias must be false to be served without q_lora_rank",
                param="attention_bias",
            )
        shape = LatentShape(
            heads=c.heads,
            nope=own.integer("qk_nope_head_dim"),
            rope=own.integer("qk_rope_head_dim"),
            v=own.integer("v_head_dim"),
            rank=own.integer("kv_lora_rank"),
            q_rank=q_rank,
        )
        scale = (shape.nope + shape.rope) ** -0.5 * _magnitude(c.rope.scaling) ** 2
        return LatentAttention(build, layer, shape, c.hidden_size, scale=scale, bias=c.attention_bias)

    def router(self, build: Build) -> Router:
        c, own = build.config, build.config.own
        deepseek.require(build, "scoring_func", "softmax", default="softmax")
        grouped = deepseek.require(build, "topk_method", "greedy", "group_limited_greedy", default="greedy")
        renormalise = deepseek.renormalises(build)
        groups: dict[str, Any] = (
            {"groups": own.integer("n_group"), "kept_groups": own.integer("topk_group")}
            if grouped == "group_limited_greedy"
            else {}
        )
        return Router(
            build,
            c.hidden_size,
            own.integer("n_routed_experts"),
            own.integer("num_experts_per_tok"),
            precise=True,
            renormalise=renormalise,
            scale=1.0 if renormalise else own.number("routed_scaling_factor", 1.0),
            **groups,
        )


def _magnitude(scaling: Any) -> float:
    """By what YaRN lengthens queries and keys each, beside what it does to their rotating parts."""
    weight, factor = (scaling or {}).get("mscale_all_dim", 0), (scaling or {}).get("factor", 1)
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


TINY = deepseek.TINY | {
    "model_type": "deepseek_v2",
    "architectures": ["DeepseekV2ForCausalLM"],
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "q_lora_rank": 20,
    "kv_lora_rank": 24,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "topk_method": "group_limited_greedy",
    "n_group": 3,
    "topk_group": 2,
    "routed_scaling_factor": 3.0,
    "rope_scaling": {
        "type": "yarn",
        "factor": 8,
        "original_max_position_embeddings": 64,
        "beta_fast": 32,
        "beta_slow": 1,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
    },
}
