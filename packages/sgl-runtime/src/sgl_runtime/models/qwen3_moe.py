# SPDX-License-Identifier: Apache-2.0
"""Qwen 3 MoE: Qwen 3 whose MLP is a mixture of experts, with none that is shared."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from sgl_runtime.layers import Build
from sgl_runtime.models import qwen2_moe, qwen3


class Qwen3MoeForCausalLM(qwen2_moe.Qwen2MoeForCausalLM):
    sharing: ClassVar = False

    def attention(self, build: Build, layer: int) -> nn.Module:
        return qwen3.Attention(build, layer, window=build.config.window(layer))


TINY = qwen3.TINY | {
    "model_type": "qwen3_moe",
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 15,
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
