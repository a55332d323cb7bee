# SPDX-License-Identifier: Apache-2.0
"""Gemma 2: Gemma with norms before and after attention and MLP, soft-capped scores and logits, and a sliding
window in every second layer."""

from __future__ import annotations

from torch import Tensor, nn

from sgl_runtime.layers import Build, Embedding, Inputs, LogitsHead, Rotation
from sgl_runtime.models import gemma, llama


class Block(nn.Module):
    def __init__(
        self,
        input_layernorm: nn.Module,
        attention: nn.Module,
        post_attention_layernorm: nn.Module,
        pre_feedforward_layernorm: nn.Module,
        mlp: nn.Module,
        post_feedforward_layernorm: nn.Module,
    ) -> None:
        super().__init__()
        self.input_layernorm = input_layernorm
        self.self_attn = attention
        self.post_attention_layernorm = post_attention_layernorm
        self.pre_feedforward_layernorm = pre_feedforward_layernorm
        self.mlp = mlp
        self.post_feedforward_layernorm = post_feedforward_layernorm

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.input_layernorm(x, residual)
        x, _ = self.post_attention_layernorm(self.self_attn(x, rotation, inputs), None)
        x, residual = self.pre_feedforward_layernorm(x, inputs.only_asked(residual))
        x, _ = self.post_feedforward_layernorm(self.mlp(x), None)
        return x, residual


class Gemma2ForCausalLM(gemma.GemmaForCausalLM):
    def block(self, build: Build, layer: int) -> nn.Module:
        return Block(
            self.norm(build),
            self.attention(build, layer),
            self.norm(build),
            self.norm(build),
            self.mlp(build, layer),
            self.norm(build),
        )

    def attention(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        return llama.Attention(
            build,
            layer,
            scale=c.own.number("query_pre_attn_scalar", c.head_dim) ** -0.5,
            window=c.window(layer, full_every=2),
            softcap=c.own.optional("attn_logit_softcapping"),
        )

    def head(self, build: Build, tied: Embedding | None) -> LogitsHead:
        c = build.config
        softcap = c.own.optional("final_logit_softcapping")
        return LogitsHead(build, c.vocab_size, c.hidden_size, tied=tied, softcap=softcap)


TINY = gemma.TINY | {
    "model_type": "gemma2",
    "architectures": ["Gemma2ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "num_hidden_layers": 3,
    "query_pre_attn_scalar": 30,
    "sliding_window": 32,
    "attn_logit_softcapping": 8.0,
    "final_logit_softcapping": 12.0,
}
