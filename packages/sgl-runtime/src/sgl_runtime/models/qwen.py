# SPDX-License-Identifier: Apache-2.0
"""Qwen 1: Llama under names of its own, with fused projections, biases on queries, keys and values, and a
config that counts the MLP twice.

Beyond the length it was trained for it changes base and scores with the length of each sequence, which
cached keys cannot follow; so it is served up to that length.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, GatedMLP
from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class QWenLMHeadModel(llama.LlamaForCausalLM):
    packed: ClassVar = {
        "c_attn": ("qkv_proj", Joined(("q", "k", "v"))),
        "w2": ("gate_up_proj", "gate"),
        "w1": ("gate_up_proj", "up"),
    }
    paths: ClassVar = {
        "model.embed_tokens": "transformer.wte",
        "model.layers": "transformer.h",
        "model.norm": "transformer.ln_f",
        "input_layernorm": "ln_1",
        "self_attn": "attn",
        "self_attn.o_proj": "attn.c_proj",
        "post_attention_layernorm": "ln_2",
        "mlp.down_proj": "mlp.c_proj",
    }

    def __init__(self, build: Build) -> None:
        own = build.config.own
        longest = build.config.context_length
        stretches = own.boolean("use_dynamic_ntk", False) or own.boolean("use_logn_attn", False)
        if stretches and build.context_length > longest:
            raise ConfigError(
                f"--context-length {build.context_length}: Qwen 1 is served up to the {longest} tokens "
                f"it was trained for",
                param="context_length",
            )
        super().__init__(build)

    def attention(self, build: Build, layer: int) -> nn.Module:
        out_bias = not build.config.own.boolean("no_bias", True)
        return llama.Attention(build, layer, qkv_bias=True, out_bias=out_bias)

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        bias = not c.own.boolean("no_bias", True)
        return GatedMLP(build, c.hidden_size, c.intermediate_size // 2, "silu", bias=bias)


TINY = {
    "model_type": "qwen",
    "architectures": ["QWenLMHeadModel"],
    "vocab_size": 264,
    "hidden_size": 48,
    "intermediate_size": 174,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "kv_channels": 16,
    "seq_length": 512,
    "max_position_embeddings": 2048,
    "layer_norm_epsilon": 1e-6,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "no_bias": True,
    "use_dynamic_ntk": True,
    "use_logn_attn": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": False,
}
