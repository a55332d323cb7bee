# SPDX-License-Identifier: Apache-2.0
"""MiniCPM: Llama with scaled embeddings, scaled additions to the residual stream and scaled logits."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from sgl_runtime.layers import Build, Embedding, Inputs, LogitsHead, Rotation
from sgl_runtime.models import llama


class Block(llama.Block):
    """What it adds to the residual stream is multiplied by `scale`."""

    def __init__(
        self,
        input_layernorm: nn.Module,
        attention: nn.Module,
        post_attention_layernorm: nn.Module,
        mlp: nn.Module,
        scale: float,
    ) -> None:
        super().__init__(input_layernorm, attention, post_attention_layernorm, mlp)
        self._scale = scale

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        x, residual = self.input_layernorm(x, residual)
        x = self.self_attn(x, rotation, inputs).mul_(self._scale)
        x, residual = self.post_attention_layernorm(x, inputs.only_asked(residual))
        return self.mlp(x).mul_(self._scale), residual


class MiniCPMForCausalLM(llama.LlamaForCausalLM):
    tied: ClassVar = True

    def decoder(self, build: Build) -> llama.Decoder:
        scale = build.config.own.number("scale_emb", 1.0)
        return llama.Decoder(build, self.block, self.norm(build), embedding_scale=scale)

    def block(self, build: Build, layer: int) -> nn.Module:
        scale = build.config.own.number("scale_depth", 1.0) * build.config.layers**-0.5
        attention, mlp = self.attention(build, layer), self.mlp(build, layer)
        return Block(self.norm(build), attention, self.norm(build), mlp, scale)

    def head(self, build: Build, tied: Embedding | None) -> LogitsHead:
        c = build.config
        scale = c.own.number("dim_model_base", c.hidden_size) / c.hidden_size
        return LogitsHead(build, c.vocab_size, c.hidden_size, tied=tied, scale=scale)


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "minicpm",
    "architectures": ["MiniCPMForCausalLM"],
    "hidden_size": 96,
    "scale_emb": 3,
    "scale_depth": 1.4,
    "dim_model_base": 40,
}
