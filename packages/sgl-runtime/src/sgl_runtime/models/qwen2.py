# SPDX-License-Identifier: Apache-2.0
"""Qwen 2 and 2.5: Llama with a bias on queries, keys and values, and a sliding window in its upper layers if
the config uses one."""

from __future__ import annotations

from torch import nn

from sgl_runtime.layers import Build
from sgl_runtime.models import llama


class Qwen2ForCausalLM(llama.LlamaForCausalLM):
    def attention(self, build: Build, layer: int) -> nn.Module:
        window = build.config.window(layer)
        return llama.Attention(build, layer, qkv_bias=True, out_bias=False, window=window)


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "use_sliding_window": True,
    "sliding_window": 32,
    "max_window_layers": 1,
}
