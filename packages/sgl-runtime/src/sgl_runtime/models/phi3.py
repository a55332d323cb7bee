# SPDX-License-Identifier: Apache-2.0
"""Phi-3 and Phi-4: Llama stored with fused projections, and in most of them a sliding window, a LongRoPE or a
part of each head that rotates."""

from __future__ import annotations

from typing import ClassVar

from sgl_runtime.models import llama
from sgl_runtime.models.base import Joined


class Phi3ForCausalLM(llama.LlamaForCausalLM):
    packed: ClassVar = {
        "qkv_proj": ("qkv_proj", Joined(("q", "k", "v"))),
        "gate_up_proj": ("gate_up_proj", Joined(("gate", "up"))),
    }


TINY = {name: value for name, value in llama.TINY.items() if name != "head_dim"} | {
    "model_type": "phi3",
    "architectures": ["Phi3ForCausalLM"],
    "hidden_size": 96,
    "sliding_window": 32,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "original_max_position_embeddings": 512,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.0, 1.1, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 1.5, 2.0, 4.0, 6.0, 8.0],
    },
}
