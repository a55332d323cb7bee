# SPDX-License-Identifier: Apache-2.0
"""Command-R: attention and MLP side by side on one layer norm without bias, rotation of neighbouring
dimensions, scaled logits of the embedding's matrix; the largest normalises its heads."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from sgl_runtime.layers import (
    Build,
    Embedding,
    HeadLayerNorm,
    Inputs,
    LayerNorm,
    LogitsHead,
    Rotary,
    Rotation,
)
from sgl_runtime.models import llama


class Attention(llama.Attention):
    def __init__(self, build: Build, layer: int, **options: Any) -> None:
        super().__init__(build, layer, **options)
        c = build.config
        self.q_norm: nn.Module = nn.Identity()
        self.k_norm: nn.Module = nn.Identity()
        if c.own.boolean("use_qk_norm", False):
            mine = build.heads(c.heads, c.kv_heads)
            self.q_norm = HeadLayerNorm(build, c.heads, mine.q, c.head_dim, c.norm_eps)
            self.k_norm = HeadLayerNorm(build, c.kv_heads, mine.kv, c.head_dim, c.norm_eps)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv_proj.split(x)
        return self.q_norm(q), self.k_norm(k), v


class Block(nn.Module):
    """Attention and MLP read the same normalised input."""

    def __init__(self, input_layernorm: nn.Module, attention: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = attention
        self.mlp = mlp

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.input_layernorm(x, residual)
        attended = self.self_attn(x, rotation, inputs)
        return attended.add_(self.mlp(inputs.only_asked(x))), inputs.only_asked(residual)


class CohereForCausalLM(llama.LlamaForCausalLM):
    tied: ClassVar = True

    def decoder(self, build: Build) -> llama.Decoder:
        return llama.Decoder(build, self.block, self.norm(build), rotary=Rotary(build, interleaved=True))

    def block(self, build: Build, layer: int) -> nn.Module:
        return Block(self.norm(build), self.attention(build, layer), self.mlp(build, layer))

    def attention(self, build: Build, layer: int) -> nn.Module:
        return Attention(build, layer)

    def norm(self, build: Build) -> nn.Module:
        return LayerNorm(build, build.config.hidden_size, build.config.norm_eps, bias=False)

    def head(self, build: Build, tied: Embedding | None) -> LogitsHead:
        c = build.config
        return LogitsHead(
            build, c.vocab_size, c.hidden_size, tied=tied, scale=c.own.number("logit_scale", 0.0625)
        )


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "cohere",
    "architectures": ["CohereForCausalLM"],
    "hidden_size": 96,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.25,
    "use_qk_norm": True,
    "pad_token_id": 0,
}
