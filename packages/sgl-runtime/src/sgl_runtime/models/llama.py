# SPDX-License-Identifier: Apache-2.0
"""Llama 1 to 3.2 and what is published as such: RMSNorm, rotary positions, grouped queries, gated MLP.

Biases on attention and MLP, tied embeddings, a head_dim that is not hidden / heads, sliding windows and the
share of a head that rotates follow the checkpoint's config. Other families are this one with another
`attention`, `mlp`, `norm` or `block`.
"""

from __future__ import annotations

from collections.abc import Callable
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
    """[T, hidden] -> [T, hidden], summed over the ranks, of the tokens asked for.

    By default as the config says: biases by `attention_bias`, scores scaled by head_dim ** -0.5.
    """

    def __init__(
        self,
        build: Build,
        layer: int,
        *,
        qkv_bias: bool | None = None,
        out_bias: bool | None = None,
        scale: float | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> None:
        super().__init__()
        c = build.config
        mine = build.heads(c.heads, c.kv_heads)
        self.qkv_proj = QKVLinear(
            build,
            c.hidden_size,
            c.heads,
            c.kv_heads,
            c.head_dim,
            bias=c.attention_bias if qkv_bias is None else qkv_bias,
        )
        self.o_proj = RowLinear(
            build,
            c.heads * c.head_dim,
            c.hidden_size,
            bias=c.attention_bias if out_bias is None else out_bias,
            share=mine.q.times(c.head_dim),
        )
        spec = AttentionSpec(
            mine.q.length,
            mine.kv.length,
            c.head_dim,
            c.head_dim,
            scale=c.head_dim**-0.5 if scale is None else scale,
            window=window,
            softcap=softcap,
        )
        self.attend = PagedAttention(layer, spec)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, query heads, head_dim], k and v [T, KV heads, head_dim], before they rotate."""
        return self.qkv_proj.split(x)

    def forward(self, x: Tensor, rotation: Rotation | None, inputs: Inputs) -> Tensor:
        q, k, v = self.project(x)
        return self.o_proj(self.attend(q, k, v, inputs, rotation))


class Block(nn.Module):
    def __init__(
        self,
        input_layernorm: nn.Module,
        attention: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
    ) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = attention
        self.post_attention_layernorm = post_attention_layernorm
        self.mlp = mlp

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(x, rotation, inputs)
        x, residual = self.post_attention_layernorm(x, inputs.only_asked(residual))
        return self.mlp(x), residual


class Decoder(nn.Module):
    """Tokens -> normalised hidden states. `block` makes the layer of a number; whatever `rotary` makes of
    the positions is what blocks get."""

    def __init__(
        self,
        build: Build,
        block: Callable[[Build, int], nn.Module],
        norm: nn.Module,
        *,
        rotary: nn.Module | None = None,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        c = build.config
        self.embed_tokens = Embedding(build, c.vocab_size, c.hidden_size, scale=embedding_scale)
        self.rotary = rotary if rotary is not None else Rotary(build)
        self.layers = nn.ModuleList(block(build, layer) for layer in range(c.layers))
        self.norm = norm

    def embed(self, inputs: Inputs) -> Tensor:
        return self.embed_tokens(inputs.tokens)

    def forward(self, inputs: Inputs) -> Tensor:
        rotation = self.rotary(inputs.positions)
        x, residual = self.embed(inputs), None
        *before, last = self.layers
        for block in before:
            x, residual = block(x, residual, rotation, inputs)
        x, residual = last(x, residual, rotation, inputs.of_last_layer)
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
        self.model = self.decoder(build)
        tied = self.is_tied(build.config)
        self.lm_head = self.head(build, self.model.embed_tokens if tied else None)
        if tied:
            self.skip = (*self.skip, f"{self.paths.get('lm_head', 'lm_head')}.weight")

    def decoder(self, build: Build) -> Decoder:
        return Decoder(build, self.block, self.norm(build))

    def block(self, build: Build, layer: int) -> nn.Module:
        return Block(self.norm(build), self.attention(build, layer), self.norm(build), self.mlp(build, layer))

    def attention(self, build: Build, layer: int) -> nn.Module:
        return Attention(build, layer, window=build.config.window(layer))

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        return GatedMLP(build, c.hidden_size, c.intermediate_size, c.hidden_act, bias=c.mlp_bias)

    def norm(self, build: Build) -> nn.Module:
        return RMSNorm(build, build.config.hidden_size, build.config.norm_eps)

    def head(self, build: Build, tied: Embedding | None) -> LogitsHead:
        return LogitsHead(build, build.config.vocab_size, build.config.hidden_size, tied=tied)

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
