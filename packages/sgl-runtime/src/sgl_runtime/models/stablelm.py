# SPDX-License-Identifier: Apache-2.0
"""StableLM: layer norms with bias, heads of which a part rotates; some have normalised heads, and attention
and MLP side by side."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sgl_runtime.layers import Build, HeadLayerNorm, LayerNorm
from sgl_runtime.models import cohere, llama


class Attention(llama.Attention):
    def __init__(self, build: Build, layer: int, **options: Any) -> None:
        super().__init__(build, layer, **options)
        c = build.config
        self.q_layernorm: nn.Module = nn.Identity()
        self.k_layernorm: nn.Module = nn.Identity()
        if c.own.boolean("qk_layernorm", False):
            mine = build.heads(c.heads, c.kv_heads)
            self.q_layernorm = HeadLayerNorm(build, c.heads, mine.q, c.head_dim, c.norm_eps, apart=True)
            self.k_layernorm = HeadLayerNorm(build, c.kv_heads, mine.kv, c.head_dim, c.norm_eps, apart=True)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv_proj.split(x)
        return self.q_layernorm(q), self.k_layernorm(k), v


class StableLmForCausalLM(llama.LlamaForCausalLM):
    def __init__(self, build: Build) -> None:
        super().__init__(build)
        heads = range(build.config.heads)
        self.packed = self.packed | {  # type: ignore[misc]  # a norm for each head, of this model's number
            f"{norm}.norms.{head}": (norm, head) for norm in ("q_layernorm", "k_layernorm") for head in heads
        }

    def block(self, build: Build, layer: int) -> nn.Module:
        if build.config.own.boolean("use_parallel_residual", False):
            return cohere.Block(self.norm(build), self.attention(build, layer), self.mlp(build, layer))
        return super().block(build, layer)

    def attention(self, build: Build, layer: int) -> nn.Module:
        bias = build.config.own.boolean("use_qkv_bias", False)
        return Attention(build, layer, qkv_bias=bias, out_bias=False)

    def norm(self, build: Build) -> nn.Module:
        return LayerNorm(build, build.config.hidden_size, build.config.norm_eps, bias=True)


class StableLMEpochForCausalLM(StableLmForCausalLM):
    """The same under the name of its first releases."""


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "stablelm",
    "architectures": ["StableLmForCausalLM"],
    "hidden_size": 96,
    "layer_norm_eps": 1e-5,
    "use_qkv_bias": True,
    "partial_rotary_factor": 0.25,
    "tie_word_embeddings": False,
}
