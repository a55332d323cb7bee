# SPDX-License-Identifier: Apache-2.0
"""InternLM 2 and 2.5: Llama under names of its own, with queries, keys and values in one matrix, KV group
after KV group."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.layers import Build
from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class InternLM2ForCausalLM(llama.LlamaForCausalLM):
    packed: ClassVar = {
        "wqkv": ("qkv_proj", Joined(("q", "k", "v"), by_kv_head=True)),
        "w1": ("gate_up_proj", "gate"),
        "w3": ("gate_up_proj", "up"),
    }
    paths: ClassVar = {
        "model.embed_tokens": "model.tok_embeddings",
        "input_layernorm": "attention_norm",
        "self_attn": "attention",
        "self_attn.o_proj": "attention.wo",
        "post_attention_layernorm": "ffn_norm",
        "mlp": "feed_forward",
        "mlp.down_proj": "feed_forward.w2",
        "lm_head": "output",
    }

    def attention(self, build: Build, layer: int) -> nn.Module:
        bias = build.config.own.boolean("bias", False)
        return llama.Attention(build, layer, qkv_bias=bias, out_bias=bias)


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "internlm2",
    "architectures": ["InternLM2ForCausalLM"],
    "hidden_size": 96,
    "bias": True,
    "tie_word_embeddings": False,
}
