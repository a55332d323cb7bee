# SPDX-License-Identifier: Apache-2.0
"""config.json as publishers really spell it, against transformers' reading of the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from sgl_runtime.checkpoint.config import ModelConfig, read_config
from sgl_runtime.errors import ConfigError

LLAMA_1 = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_sequence_length": 2048,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}
LLAMA_2 = LLAMA_1 | {
    "max_position_embeddings": 4096,
    "max_sequence_length": None,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
}
LLAMA_3_1 = LLAMA_2 | {
    "attention_bias": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_key_value_heads": 8,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "torch_dtype": "bfloat16",
    "vocab_size": 128256,
}
LLAMA_3_2 = LLAMA_3_1 | {
    "head_dim": 64,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "rope_scaling": LLAMA_3_1["rope_scaling"] | {"factor": 32.0},  # type: ignore[operator]
    "tie_word_embeddings": True,
}
TINY_LLAMA = LLAMA_2 | {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 22,
    "num_key_value_heads": 4,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
}
SMOL_LM = LLAMA_2 | {
    "bos_token_id": 1,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "vocab_size": 49152,
}
MISTRAL = LLAMA_2 | {
    "architectures": ["MistralForCausalLM"],
    "head_dim": None,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_key_value_heads": 8,
    "rope_theta": 1000000.0,
    "sliding_window": None,
}
MISTRAL_NEMO = MISTRAL | {"head_dim": 128, "hidden_size": 5120, "num_hidden_layers": 40, "vocab_size": 131072}
TRANSFORMERS_5 = {
    key: value for key, value in LLAMA_3_1.items() if key not in ("rope_theta", "rope_scaling", "torch_dtype")
} | {
    "dtype": "bfloat16",
    "rope_parameters": LLAMA_3_1["rope_scaling"] | {"rope_theta": 500000.0},  # type: ignore[operator]
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama-1": LLAMA_1,
    "llama-2": LLAMA_2,
    "llama-3.1": LLAMA_3_1,
    "llama-3.2": LLAMA_3_2,
    "tinyllama": TINY_LLAMA,
    "smollm": SMOL_LM,
    "mistral": MISTRAL,
    "mistral-nemo": MISTRAL_NEMO,
    "transformers-5": TRANSFORMERS_5,
    "plain-rope-parameters": LLAMA_2 | {"rope_parameters": {"rope_theta": 12345.0, "rope_type": "default"}},
    "linear-old-spelling": LLAMA_2 | {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic": LLAMA_2 | {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
}  # fmt: skip


def write(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def read(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    return read_config(write(folder, config, generation))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_read_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    ours = read(tmp_path, PUBLISHED[name])
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert ours.architecture == theirs.architectures[0]
    assert ours.model_type == theirs.model_type
    assert ours.hidden_size == theirs.hidden_size
    assert ours.layers == theirs.num_hidden_layers
    assert ours.heads == theirs.num_attention_heads
    assert ours.kv_heads == theirs.num_key_value_heads
    assert ours.head_dim == (theirs.head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.intermediate_size == theirs.intermediate_size
    assert ours.vocab_size == theirs.vocab_size
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.hidden_act == theirs.hidden_act
    assert ours.attention_bias == getattr(theirs, "attention_bias", False)
    assert ours.mlp_bias == getattr(theirs, "mlp_bias", False)
    assert ours.dtype == str(theirs.dtype).removeprefix("torch.")
    assert ours.bos == theirs.bos_token_id
    assert list(ours.eos) == (
        theirs.eos_token_id if isinstance(theirs.eos_token_id, list) else [theirs.eos_token_id]
    )
    parameters = dict(theirs.rope_parameters)
    parameters.pop("type", None)  # kept beside rope_type
    assert ours.rope.theta == parameters.pop("rope_theta")
    assert (ours.rope.scaling or {"rope_type": "default"}) == parameters
    assert ours.raw["architectures"] == PUBLISHED[name]["architectures"]


@pytest.mark.parametrize(
    ("change", "length"),
    [
        ({}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 1.5}}, 6144),
        ({"rope_scaling": LLAMA_3_1["rope_scaling"]}, 4096),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}},
            4096,
        ),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 16384),
        ({"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}, 8192),
        ({"seq_length": 8192}, 8192),
        ({"max_position_embeddings": None, "max_seq_len": 512}, 512),
        ({"max_position_embeddings": None, "model_max_length": 1024}, 1024),
        # Vicuna 16k: max_sequence_length is what the scaling makes of max_position_embeddings.
        ({"max_sequence_length": 16384, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
    ],
)
def test_context_length(change: dict[str, Any], length: int, tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA_2 | change).context_length == length


def test_fields_that_follow_from_others_may_be_missing(tmp_path: Path) -> None:
    needed = (
        "architectures", "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads",
        "intermediate_size", "vocab_size", "rms_norm_eps", "max_position_embeddings",
    )  # fmt: skip
    config = read(tmp_path, {name: LLAMA_2[name] for name in needed})
    assert (config.kv_heads, config.head_dim, config.rope.theta, config.rope.scaling) == (
        32,
        128,
        10000.0,
        None,
    )
    assert (config.hidden_act, config.dtype, config.tie_embeddings) == ("silu", "float32", False)
    assert (config.bos, config.eos) == (None, ())
    for name in needed:
        with pytest.raises(ConfigError, match=rf"config\.json: {name}"):
            read(tmp_path, {other: LLAMA_2[other] for other in needed if other != name})


def test_the_generation_config_decides_what_ends_the_text(tmp_path: Path) -> None:
    assert read(tmp_path, LLAMA_2, {"eos_token_id": [2, 7]}).eos == (2, 7)
    assert read(tmp_path, LLAMA_2, {"temperature": 0.6}).eos == (2,)
    assert read(tmp_path, LLAMA_2, {"eos_token_id": None}).eos == (2,)
    with pytest.raises(
        ConfigError, match=r"generation_config\.json: eos_token_id is 32000, beyond vocab_size"
    ):
        read(tmp_path, LLAMA_2, {"eos_token_id": 32000})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": "4096"}, "hidden_size must be a positive integer, not '4096'"),
        ({"hidden_size": True}, "hidden_size must be a positive integer, not True"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, not 0"),
        ({"vocab_size": -1}, "vocab_size must be a positive integer"),
        ({"rms_norm_eps": 0}, "rms_norm_eps must be a positive number"),
        ({"rope_theta": "big"}, "rope_theta must be a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings must be true or false, not 'yes'"),
        ({"hidden_act": 3}, "hidden_act must be a string"),
        (
            {"num_key_value_heads": 5},
            "num_key_value_heads is 5, which does not divide num_attention_heads, 32",
        ),
        ({"hidden_size": 4097}, "head_dim is missing"),
        ({"architectures": []}, "architectures must be a list that begins with a class name"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
        ({"torch_dtype": "int8"}, "torch_dtype must be one of float32, bfloat16, float16, not 'int8'"),
        ({"dtype": "int8"}, "dtype must be one of"),
        ({"eos_token_id": "2"}, "eos_token_id must be a token id or a list of token ids, not '2'"),
        ({"eos_token_id": [2, -1]}, "eos_token_id must be a token id or a list"),
        ({"bos_token_id": 1.5}, "bos_token_id must be a token id"),
        ({"rope_scaling": "linear"}, "rope_scaling must be an object, not 'linear'"),
        ({"rope_scaling": {"factor": 2.0}}, "rope_scaling needs rope_type"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be a positive number"),
        (
            {"rope_parameters": {"main": {"rope_type": "default"}}},
            "rope_parameters has a RoPE for each of main",
        ),
        ({"max_position_embeddings": None}, "max_position_embeddings is missing"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"config\.json: {message}"):
        read(tmp_path, LLAMA_2 | change)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"a"', b"\xff\xfe", b'{"a": }'])
def test_a_file_that_is_no_json_object_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_config(tmp_path)


def test_a_folder_without_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no config\.json"):
        read_config(tmp_path)
