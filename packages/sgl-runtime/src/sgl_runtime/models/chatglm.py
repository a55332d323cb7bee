# SPDX-License-Identifier: Apache-2.0
"""ChatGLM 2, ChatGLM 3 and GLM-4 in the format of their own: Llama under other names, with fused projections,
and a rotation of neighbouring dimensions in the first half of each head."""

from __future__ import annotations

from typing import ClassVar

import msgspec
from torch import nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, GatedMLP, LayerNorm, Rotary
from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class ChatGLMForConditionalGeneration(llama.LlamaForCausalLM):
    packed: ClassVar = {
        "query_key_value": ("qkv_proj", Joined(("q", "k", "v"))),
        "dense_h_to_4h": ("gate_up_proj", Joined(("gate", "up"))),
    }
    paths: ClassVar = {
        "model.embed_tokens": "transformer.embedding.word_embeddings",
        "model.layers": "transformer.encoder.layers",
        "model.norm": "transformer.encoder.final_layernorm",
        "self_attn": "self_attention",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.down_proj": "mlp.dense_4h_to_h",
        "lm_head": "transformer.output_layer",
    }
    skip = ("rotary_pos_emb.inv_freq",)

    def __init__(self, build: Build) -> None:
        for field, served in (
            ("multi_query_attention", True),
            ("apply_residual_connection_post_layernorm", False),
            ("post_layer_norm", True),
        ):
            if build.config.own.boolean(field, served) != served:
                raise ConfigError(
                    f"config.json: {field} must be {str(served).lower()} to be served", param=field
                )
        super().__init__(build)

    def decoder(self, build: Build) -> llama.Decoder:
        c = build.config
        theta = c.rope.theta * c.own.number("rope_ratio", 1.0)
        rope = msgspec.structs.replace(c.rope, theta=theta, rotary_dim=c.head_dim // 2)
        return llama.Decoder(
            build, self.block, self.norm(build), rotary=Rotary(build, rope, interleaved=True)
        )

    def attention(self, build: Build, layer: int) -> nn.Module:
        own = build.config.own
        bias = own.boolean("add_bias_linear", False)
        return llama.Attention(
            build, layer, qkv_bias=bias or own.boolean("add_qkv_bias", False), out_bias=bias
        )

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        bias = c.own.boolean("add_bias_linear", False)
        return GatedMLP(build, c.hidden_size, c.intermediate_size, "silu", bias=bias)

    def norm(self, build: Build) -> nn.Module:
        if build.config.own.boolean("rmsnorm", True):
            return super().norm(build)
        return LayerNorm(build, build.config.hidden_size, build.config.norm_eps, bias=True)


class ChatGLMModel(ChatGLMForConditionalGeneration):
    """The same; the first releases name the decoder."""


class ChatGLMForCausalLM(ChatGLMForConditionalGeneration):
    """The same under the name that other servers use."""


TINY = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "padded_vocab_size": 264,
    "hidden_size": 96,
    "ffn_hidden_size": 87,
    "num_layers": 2,
    "num_attention_heads": 6,
    "kv_channels": 16,
    "multi_query_attention": True,
    "multi_query_group_num": 3,
    "seq_length": 512,
    "layernorm_epsilon": 1e-5,
    "rmsnorm": True,
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_residual_connection_post_layernorm": False,
    "post_layer_norm": True,
    "rope_ratio": 50,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}
