# SPDX-License-Identifier: Apache-2.0
"""Mistral and Mistral NeMo: Llama, with a sliding window in the first of them and a head_dim of its own in
the second, both as the config says."""

from __future__ import annotations

from sgl_runtime.models import llama


class MistralForCausalLM(llama.LlamaForCausalLM):
    pass


TINY = llama.TINY | {
    "model_type": "mistral",
    "architectures": ["MistralForCausalLM"],
    "head_dim": 12,
    "sliding_window": 32,
    "tie_word_embeddings": False,
}
