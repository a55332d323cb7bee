# SPDX-License-Identifier: Apache-2.0
"""Llama 1 to 3.2 and what is published as such: RMSNorm, rotary positions, grouped queries, gated MLP.

Biases on attention and MLP, tied embeddings and a head_dim that is not hidden / heads follow the
checkpoint's config.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sgl_runtime.layers import (
    AttentionSpec,
    Build,
    Embedding,
    GatedMLP,
    Inputs,
    LogitsHead,
    PagedAttention,
    QKVLinear,
    RMSNorm,
    Rotary,
    Rotation,
    RowLinear,
)
from sgl_runtime.models.base import Model


class Attention(nn.Module):
    def __init__(self, build: Build, layer: int) -> None:
        super().__init__()
        c = build.config
        mine = build.heads(c.heads, c.kv_heads)
        self.qkv_proj = QKVLinear(
            build, c.hidden_size, c.heads, c.kv_heads, c.head_dim, bias=c.attention_bias
        )
        self.o_proj = RowLinear(
            build, c.heads * c.head_dim, c.hidden_size, bias=c.attention_bias, share=mine.q.times(c.head_dim)
        )
        spec = AttentionSpec(mine.q.length, mine.kv.length, c.head_dim, c.head_dim, c.head_dim**-0.5)
        self.attend = PagedAttention(layer, spec)

    def forward(self, x: Tensor, rotation: Rotation, inputs: Inputs) -> Tensor:
        q, k, v = self.qkv_proj.split(x)
        return self.o_proj(self.attend(q, k, v, inputs, rotation))


class Block(nn.Module):
    def __init__(self, build: Build, layer: int) -> None:
        super().__init__()
        c = build.config
        self.input_layernorm = RMSNorm(build, c.hidden_size, c.norm_eps)
        self.self_attn = Attention(build, layer)
        self.post_attention_layernorm = RMSNorm(build, c.hidden_size, c.norm_eps)
        self.mlp = GatedMLP(build, c.hidden_size, c.intermediate_size, c.hidden_act, bias=c.mlp_bias)

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(x, rotation, inputs)
        x, residual = self.post_attention_layernorm(x, residual)
        return self.mlp(x), residual


class Decoder(nn.Module):
    def __init__(self, build: Build) -> None:
        super().__init__()
        c = build.config
        self.embed_tokens = Embedding(build, c.vocab_size, c.hidden_size)
        self.rotary = Rotary(build, c.head_dim)
        self.layers = nn.ModuleList(Block(build, layer) for layer in range(c.layers))
        self.norm = RMSNorm(build, c.hidden_size, c.norm_eps)

    def forward(self, inputs: Inputs) -> Tensor:
        rotation = self.rotary(inputs.positions)
        x, residual = self.embed_tokens(inputs.tokens), None
        for block in self.layers:
            x, residual = block(x, residual, rotation, inputs)
        x, _ = self.norm(x, residual)
        return x


class LlamaForCausalLM(Model):
    packed: ClassVar = {
        "q_proj": ("qkv_proj", "q"),
        "k_proj": ("qkv_proj", "k"),
        "v_proj": ("qkv_proj", "v"),
        "gate_proj": ("gate_up_proj", "gate"),
        "up_proj": ("gate_up_proj", "up"),
    }
    skip: tuple[str, ...] = ("rotary_emb.inv_freq",)

    def __init__(self, build: Build) -> None:
        super().__init__(build)
        c = build.config
        self.model = Decoder(build)
        tied = self.model.embed_tokens if c.tie_embeddings else None
        self.lm_head = LogitsHead(build, c.vocab_size, c.hidden_size, tied=tied)
        if c.tie_embeddings:
            self.skip = (*self.skip, "lm_head.weight")

    def forward(self, inputs: Inputs) -> Tensor:
        return self.model(inputs)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)


# Sizes that two ranks cannot halve: three KV heads, an odd MLP width.
TINY = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 264,
    "hidden_size": 48,
    "intermediate_size": 87,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
