# SPDX-License-Identifier: Apache-2.0
"""A GGUF file of each family computes what the Hugging Face checkpoint does that it was converted from.

The conversion is llama.cpp's in short: tensors under the names that the `gguf` package gives them, rows of
Llama's queries and keys reordered, 1 added to Gemma's norms.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from driver import Driver, make_runner
from numpy.typing import NDArray
from plain import PLAIN, Reference
from safetensors.numpy import load_file
from tiny_checkpoint import write_checkpoint

from sgl_runtime.checkpoint.config import ModelConfig, read_config

LAYERS = 6  # of Gemma 3: five with a sliding window, one without
FAMILIES: dict[str, tuple[str, gguf.MODEL_ARCH, dict[str, Any]]] = {
    "llama": ("llama", gguf.MODEL_ARCH.LLAMA, {}),
    "mistral": ("mistral", gguf.MODEL_ARCH.LLAMA, {"sliding_window": None}),
    "qwen": ("qwen", gguf.MODEL_ARCH.QWEN, {}),
    "qwen2": ("qwen2", gguf.MODEL_ARCH.QWEN2, {"use_sliding_window": False}),
    "qwen3": ("qwen3", gguf.MODEL_ARCH.QWEN3, {"tie_word_embeddings": False}),
    "gemma": ("gemma", gguf.MODEL_ARCH.GEMMA, {}),
    "gemma2": ("gemma2", gguf.MODEL_ARCH.GEMMA2, {"query_pre_attn_scalar": 24}),
    "gemma3": (
        "gemma3_text",
        gguf.MODEL_ARCH.GEMMA3,
        {
            "query_pre_attn_scalar": 24,
            "num_hidden_layers": LAYERS,
            "layer_types": ["sliding_attention"] * (LAYERS - 1) + ["full_attention"],
        },
    ),
}


def convert(folder: Path, config: ModelConfig, architecture: gguf.MODEL_ARCH, file: Path) -> None:
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope.theta)
    if config.sliding_window is not None:
        writer.add_sliding_window(config.sliding_window)
    if config.rope.scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType(config.rope.scaling["rope_type"]))
        writer.add_rope_scaling_factor(config.rope.scaling["factor"])
    if (cap := config.raw.get("attn_logit_softcapping")) is not None:
        writer.add_attn_logit_softcapping(cap)
    if (cap := config.raw.get("final_logit_softcapping")) is not None:
        writer.add_final_logit_softcapping(cap)
    names = gguf.get_tensor_name_map(architecture, config.layers)
    for theirs, tensor in load_file(folder / "model.safetensors").items():
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        assert name is not None, theirs
        writer.add_tensor(name, _converted(theirs, tensor, config, architecture))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _converted(
    name: str, tensor: NDArray[np.float32], config: ModelConfig, architecture: gguf.MODEL_ARCH
) -> NDArray[np.float32]:
    if "gemma" in gguf.MODEL_ARCH_NAMES[architecture] and name.endswith("norm.weight"):
        return tensor + 1
    for part, heads in (("q_proj", config.heads), ("k_proj", config.kv_heads)):
        if architecture == gguf.MODEL_ARCH.LLAMA and part in name:
            halves = tensor.reshape(heads, 2, config.head_dim // 2, -1)
            return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(tensor.shape))
    return tensor


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_is_the_same_model(family: str, tmp_path: Path) -> None:
    module, architecture, change = FAMILIES[family]
    tiny = importlib.import_module(f"sgl_runtime.models.{module}").TINY | change
    folder, file = tmp_path / "folder", tmp_path / "model.gguf"
    if tiny["model_type"] in PLAIN:
        Reference(folder, tiny)
    else:
        write_checkpoint(folder, tiny)
    convert(folder, read_config(folder), architecture, file)
    prompt = torch.randint(3, 264, (80,), generator=torch.Generator().manual_seed(3)).tolist()
    _, expected = Driver(make_runner(folder, context_length=512)).distribution(0, prompt)
    _, logprobs = Driver(make_runner(file, context_length=512)).distribution(0, prompt)
    torch.testing.assert_close(logprobs, expected, atol=1e-5, rtol=0)
