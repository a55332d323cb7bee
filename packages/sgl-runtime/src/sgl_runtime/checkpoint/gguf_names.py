# SPDX-License-Identifier: Apache-2.0
"""What a GGUF file calls the tensors of each architecture, and how it changed them, as tables.

llama.cpp's converter renames the tensors of a Hugging Face checkpoint and, for some, changes their values;
these tables undo both. The keys of the metadata are `gguf_config`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

_TENSOR = re.compile(r"(?:blk\.(\d+)\.)?([a-z_]+)\.(weight|bias)")

_LLAMA = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_AROUND = {
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_QWEN = {
    "token_embd": "transformer.wte",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_gate": "mlp.w2",
    "ffn_up": "mlp.w1",
    "ffn_down": "mlp.c_proj",
}


class Architecture(NamedTuple):
    """One `general.architecture` as a Hugging Face checkpoint."""

    model_type: str
    class_name: str
    modules: Mapping[str, str]  # GGUF's name of a module -> Hugging Face's, within its layer
    layers: str = "model.layers"
    interleaved: bool = False  # rows of query and key projections were reordered for neighbouring pairs
    norms_from_one: bool = False  # 1 was added to the weights of norms

    def hugging_face_name(self, name: str) -> str:
        """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; an unknown name is returned as
        it is."""
        match = _TENSOR.fullmatch(name)
        if match is None or match[2] not in self.modules:
            return name
        layer, module, kind = match.groups()
        path = self.modules[module]
        return f"{path}.{kind}" if layer is None else f"{self.layers}.{layer}.{path}.{kind}"


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", "LlamaForCausalLM", _LLAMA, interleaved=True),
        "qwen": Architecture("qwen", "QWenLMHeadModel", _QWEN, layers="transformer.h"),
        "qwen2": Architecture("qwen2", "Qwen2ForCausalLM", _LLAMA),
        "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", _LLAMA | _HEAD_NORMS),
        "gemma": Architecture("gemma", "GemmaForCausalLM", _LLAMA, norms_from_one=True),
        "gemma2": Architecture("gemma2", "Gemma2ForCausalLM", _LLAMA | _AROUND, norms_from_one=True),
        "gemma3": Architecture(
            "gemma3_text", "Gemma3ForCausalLM", _LLAMA | _AROUND | _HEAD_NORMS, norms_from_one=True
        ),
    }
)
