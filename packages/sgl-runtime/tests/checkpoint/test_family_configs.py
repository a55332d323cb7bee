# SPDX-License-Identifier: Apache-2.0
"""config.json of other families than Llama, in the spelling of their publishers: what is asked of the reader
is written beside each; where transformers has the family, it must agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from sgl_runtime.checkpoint.config import ModelConfig, read_config
from sgl_runtime.errors import ConfigError

# name: (config, fields of ModelConfig)
PUBLISHED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mistral 7B v0.1": (
        {
            "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
            "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 32768,
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096,
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", "vocab_size": 32000,
        },
        {"head_dim": 128, "sliding_window": 4096, "context_length": 32768},
    ),
    "gemma 2 9B": (
        {
            "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "attention_bias": False,
            "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "head_dim": 256,
            "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh",
            "hidden_size": 3584, "intermediate_size": 14336, "max_position_embeddings": 8192,
            "num_attention_heads": 16, "num_hidden_layers": 42, "num_key_value_heads": 8,
            "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
            "sliding_window": 4096, "sliding_window_size": 4096, "torch_dtype": "float32",
            "vocab_size": 256000,
        },
        {"head_dim": 256, "hidden_act": "gelu_pytorch_tanh", "sliding_window": 4096},
    ),
    "gemma 3 1B": (
        {
            "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "attention_bias": False,
            "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "intermediate_size": 6912,
            "max_position_embeddings": 32768, "num_attention_heads": 4, "num_hidden_layers": 26,
            "num_key_value_heads": 1, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
            "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
            "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
            "vocab_size": 262144,
        },
        {"kv_heads": 1, "context_length": 32768, "dtype": "bfloat16"},
    ),
    "qwen 2.5 7B": (
        {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
            "hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768,
            "max_window_layers": 28, "num_attention_heads": 28, "num_hidden_layers": 28,
            "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
            "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "use_sliding_window": False, "vocab_size": 152064,
        },
        {"head_dim": 128, "sliding_window": None},
    ),
    "stablelm 2 1.6B": (
        {
            "architectures": ["StableLmForCausalLM"], "model_type": "stablelm", "hidden_act": "silu",
            "hidden_size": 2048, "intermediate_size": 5632, "layer_norm_eps": 1e-05,
            "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 24,
            "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "rope_theta": 10000,
            "tie_word_embeddings": False, "torch_dtype": "float16", "use_qkv_bias": True,
            "vocab_size": 100352,
        },
        {"norm_eps": 1e-05, "head_dim": 64},
    ),
    "command-r 35B": (
        {
            "architectures": ["CohereForCausalLM"], "model_type": "cohere", "attention_bias": False,
            "hidden_act": "silu", "hidden_size": 8192, "intermediate_size": 22528, "layer_norm_eps": 1e-05,
            "logit_scale": 0.0625, "max_position_embeddings": 8192, "model_max_length": 131072,
            "num_attention_heads": 64, "num_hidden_layers": 40, "num_key_value_heads": 64,
            "rope_theta": 8000000.0, "torch_dtype": "float16", "use_qk_norm": False, "vocab_size": 256000,
        },
        {"norm_eps": 1e-05, "context_length": 8192},
    ),
    "phi-3 mini 128k": (
        {
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False,
            "hidden_act": "silu", "hidden_size": 3072, "intermediate_size": 8192,
            "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 32, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "vocab_size": 32064,
        },
        {"context_length": 131072},
    ),
    "phi-4 mini": (
        {
            "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu",
            "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072,
            "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
            "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75, "rms_norm_eps": 1e-05,
            "rope_scaling": {"long_factor": [1.5] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
            "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True,
            "torch_dtype": "bfloat16", "vocab_size": 200064,
        },
        {"tie_embeddings": True, "head_dim": 128},
    ),
    "starcoder": (
        {
            "architectures": ["GPTBigCodeForCausalLM"], "model_type": "gpt_bigcode",
            "activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-05, "multi_query": True,
            "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40, "n_positions": 8192,
            "torch_dtype": "float32", "vocab_size": 49152,
        },
        {"kv_heads": 1, "context_length": 8192, "intermediate_size": 24576},
    ),
    "qwen 7B": (
        {
            "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "bf16": False, "fp16": False,
            "hidden_size": 4096, "intermediate_size": 22016, "kv_channels": 128, "layer_norm_epsilon": 1e-06,
            "max_position_embeddings": 32768, "no_bias": True, "num_attention_heads": 32,
            "num_hidden_layers": 32, "rotary_emb_base": 10000, "rotary_pct": 1.0, "scale_attn_weights": True,
            "seq_length": 8192, "tie_word_embeddings": False, "use_cache": True, "use_dynamic_ntk": True,
            "use_logn_attn": True, "vocab_size": 151936,
        },
        {"kv_heads": 32, "head_dim": 128, "norm_eps": 1e-06, "context_length": 8192},
    ),
    "glm-4 9B": (
        {
            "architectures": ["ChatGLMModel"], "model_type": "chatglm", "add_bias_linear": False,
            "add_qkv_bias": True, "eos_token_id": [151329, 151336, 151338], "ffn_hidden_size": 13696,
            "hidden_size": 4096, "kv_channels": 128, "layernorm_epsilon": 1.5625e-07,
            "multi_query_attention": True, "multi_query_group_num": 2, "num_attention_heads": 32,
            "num_layers": 40, "original_rope": True, "padded_vocab_size": 151552, "post_layer_norm": True,
            "rmsnorm": True, "rope_ratio": 500, "seq_length": 131072, "tie_word_embeddings": False,
            "torch_dtype": "bfloat16", "vocab_size": 151552,
        },
        {
            "layers": 40, "kv_heads": 2, "head_dim": 128, "intermediate_size": 13696,
            "vocab_size": 151552, "norm_eps": 1.5625e-07, "context_length": 131072,
        },
    ),
    "internlm 2 7B": (
        {
            "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False,
            "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 2.0, "type": "dynamic"},
            "rope_theta": 1000000, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
            "vocab_size": 92544,
        },
        {"kv_heads": 8, "context_length": 65536},
    ),
}  # fmt: skip


def read(folder: Path, config: dict[str, Any]) -> ModelConfig:
    (folder / "config.json").write_text(json.dumps(config))
    return read_config(folder)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs(name: str, tmp_path: Path) -> None:
    published, fields = PUBLISHED[name]
    config = read(tmp_path, published)
    assert {field: getattr(config, field) for field in fields} == fields


@pytest.mark.parametrize("name", [*PUBLISHED][:-3])
def test_windows_and_rotation_as_transformers_reads_them(name: str, tmp_path: Path) -> None:
    config = read(tmp_path, PUBLISHED[name][0])
    theirs = AutoConfig.from_pretrained(tmp_path)
    every = {"gemma2": 2, "gemma3_text": 6}.get(config.model_type)
    if types := getattr(theirs, "layer_types", None):
        ours = [config.slides(layer, full_every=every) for layer in range(config.layers)]
        assert ours == [kind == "sliding_attention" for kind in types]
    rope = getattr(theirs, "rope_parameters", None) or {}
    if "full_attention" in rope:
        assert config.local_rope.theta == rope["sliding_attention"]["rope_theta"]
        rope = rope["full_attention"]
    if rope:
        assert config.rope.theta == rope["rope_theta"]
        assert config.rope.rotary_dim == int(config.head_dim * rope.get("partial_rotary_factor", 1.0))
        assert (config.rope.scaling or {"rope_type": "default"})["rope_type"] == rope["rope_type"]


def test_layers_and_their_windows(tmp_path: Path) -> None:
    mistral, gemma = PUBLISHED["mistral 7B v0.1"][0], PUBLISHED["gemma 3 1B"][0]
    assert read(tmp_path, mistral).window(0) == 4096
    assert read(tmp_path, mistral | {"sliding_window": None}).window(0) is None
    # A window as long as the context hides nothing; the layer still is of its kind.
    wide = read(tmp_path, mistral | {"sliding_window": 32768})
    assert wide.window(0) is None and wide.slides(0)
    config = read(tmp_path, gemma)
    assert [config.window(layer, full_every=6) for layer in (0, 4, 5, 6)] == [512, 512, None, 512]
    assert (config.rope.theta, config.local_rope.theta) == (1e6, 1e4)
    qwen = PUBLISHED["qwen 2.5 7B"][0] | {
        "use_sliding_window": True,
        "sliding_window": 64,
        "max_window_layers": 20,
    }
    assert [read(tmp_path, qwen).window(layer) for layer in (0, 19, 20)] == [None, None, 64]


def test_the_length_of_a_model_with_two_ropes_is_the_published_one(tmp_path: Path) -> None:
    """Gemma 3 4B: linear scaling of the layers that see everything, whose result the config gives."""
    change = {"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "max_position_embeddings": 131072}
    config = read(tmp_path, PUBLISHED["gemma 3 1B"][0] | change)
    assert config.context_length == 131072
    assert config.rope.scaling == {"rope_type": "linear", "factor": 8.0}
    assert config.local_rope.scaling is None


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("starcoder", {"n_embd": None}, "hidden_size is missing"),
        ("starcoder", {"n_layer": "40"}, "n_layer must be a positive integer, not '40'"),
        ("glm-4 9B", {"multi_query_group_num": 5}, "multi_query_group_num is 5, which does not divide"),
        ("phi-4 mini", {"partial_rotary_factor": 1.5}, "partial_rotary_factor must be at most 1"),
        ("gemma 3 1B", {"layer_types": ["full_attention"]}, "layer_types must be a list of 26"),
        ("gemma 3 1B", {"layer_types": ["chunked_attention"] * 26}, "layer_types has 'chunked_attention'"),
        ("mistral 7B v0.1", {"sliding_window": 0}, "sliding_window must be a positive integer"),
    ],
)
def test_a_wrong_field_is_named_as_it_is_spelled(
    name: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, PUBLISHED[name][0] | change)
