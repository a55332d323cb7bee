# SPDX-License-Identifier: Apache-2.0
"""GPT-BigCode, such as StarCoder: GPT-2 with one KV head. Learned positions, layer norms, a plain MLP, and
biases everywhere."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import MLP, Build, Embedding, Inputs, LayerNorm
from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class NoRotary(nn.Module):
    def forward(self, positions: Tensor) -> None:
        return None


class Decoder(llama.Decoder):
    """With a vector for each position beside that of the token."""

    def __init__(self, build: Build, *parts: Any) -> None:
        longest = build.config.context_length
        if build.context_length > longest:
            raise ConfigError(
                f"--context-length {build.context_length}: this model knows {longest} positions",
                param="context_length",
            )
        super().__init__(build, *parts, rotary=NoRotary())
        self.embed_positions = Embedding(build, longest, build.config.hidden_size)

    def embed(self, inputs: Inputs) -> Tensor:
        return self.embed_tokens(inputs.tokens).add_(self.embed_positions(inputs.positions))


class GPTBigCodeForCausalLM(llama.LlamaForCausalLM):
    packed: ClassVar = {"c_attn": ("qkv_proj", Joined(("q", "k", "v"), by_kv_head=True))}
    paths: ClassVar = {
        "model.embed_tokens": "transformer.wte",
        "model.embed_positions": "transformer.wpe",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "self_attn": "attn",
        "self_attn.o_proj": "attn.c_proj",
        "post_attention_layernorm": "ln_2",
        "mlp.up_proj": "mlp.c_fc",
        "mlp.down_proj": "mlp.c_proj",
    }
    skip = ("attn.bias", "attn.masked_bias")  # masks
    tied: ClassVar = True

    def decoder(self, build: Build) -> llama.Decoder:
        return Decoder(build, self.block, self.norm(build))

    def attention(self, build: Build, layer: int) -> nn.Module:
        scale = None if build.config.own.boolean("scale_attn_weights", True) else 1.0
        return llama.Attention(build, layer, qkv_bias=True, out_bias=True, scale=scale)

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        return MLP(build, c.hidden_size, c.intermediate_size, c.hidden_act, bias=True)

    def norm(self, build: Build) -> nn.Module:
        return LayerNorm(build, build.config.hidden_size, build.config.norm_eps, bias=True)


TINY = {
    "model_type": "gpt_bigcode",
    "architectures": ["GPTBigCodeForCausalLM"],
    "vocab_size": 264,
    "n_embd": 48,
    "n_inner": None,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": 512,
    "multi_query": True,
    "activation_function": "gelu_pytorch_tanh",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
