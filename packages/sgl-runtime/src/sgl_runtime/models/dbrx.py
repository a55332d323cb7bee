# SPDX-License-Identifier: Apache-2.0
"""DBRX: Llama with layer norms without bias, clipped queries, keys and values, and a mixture of experts whose
matrices are stored one below the other."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, LayerNorm, MoE, Router
from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class Attention(llama.Attention):
    """options: as `llama.Attention`'s. clip: bounds queries, keys and values before they rotate."""

    def __init__(self, build: Build, layer: int, *, clip: float | None, **options: Any) -> None:
        super().__init__(build, layer, **options)
        self._clip = clip

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.qkv_proj.split(x, clip=self._clip)


class DbrxForCausalLM(llama.LlamaForCausalLM):
    paths: ClassVar = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.blocks",
        "model.norm": "transformer.norm_f",
        "input_layernorm": "norm_attn_norm.norm_1",
        "self_attn": "norm_attn_norm.attn",
        "self_attn.o_proj": "norm_attn_norm.attn.out_proj",
        "post_attention_layernorm": "norm_attn_norm.norm_2",
        "mlp.gate": "ffn.router.layer",
        **{f"mlp.{name}.weight": f"ffn.experts.mlp.{name}" for name in ("w1", "v1", "w2")},
    }

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        experts = range(build.config.own.integer("moe_num_experts"))
        gate, up, down = (tuple(f"{kind}.{expert}" for expert in experts) for kind in ("gate", "up", "down"))
        self.packed = {  # type: ignore[misc]  # of this model's number of experts
            "Wqkv": ("qkv_proj", Joined(("q", "k", "v"))),
            "w1": ("gate_up_experts", Joined(gate)),
            "v1": ("gate_up_experts", Joined(up)),
            "w2": ("down_experts", Joined(down, transposed=True)),
        }

    def attention(self, build: Build, layer: int) -> nn.Module:
        return Attention(build, layer, clip=build.config.own.optional("clip_qkv"))

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c, own = build.config, build.config.own
        norm = own.values.get("moe_normalize_expert_weights", 1)
        if norm not in (1, None):
            raise ConfigError(
                f"config.json: moe_normalize_expert_weights must be 1 or null to be served, not {norm!r}",
                param="moe_normalize_expert_weights",
            )
        activation = own.values.get("ffn_act_fn") or {"name": "silu"}
        experts = own.integer("moe_num_experts")
        gate = Router(build, c.hidden_size, experts, own.integer("moe_top_k"), renormalise=norm is not None)
        return MoE(build, gate, c.hidden_size, experts, c.intermediate_size, activation["name"])

    def norm(self, build: Build) -> nn.Module:
        return LayerNorm(build, build.config.hidden_size, build.config.norm_eps, bias=False)


TINY = {
    "model_type": "dbrx",
    "architectures": ["DbrxForCausalLM"],
    "vocab_size": 264,
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 6,
    "max_seq_len": 512,
    "attn_config": {"clip_qkv": 0.5, "kv_n_heads": 3, "rope_theta": 10000.0},
    "ffn_config": {"ffn_hidden_size": 29, "moe_num_experts": 5, "moe_top_k": 2},
    "tie_word_embeddings": False,
}
