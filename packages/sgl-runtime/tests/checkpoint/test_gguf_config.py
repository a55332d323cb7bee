# SPDX-License-Identifier: Apache-2.0
"""GGUF metadata to a ModelConfig; the recovery of Llama 3.1's RoPE scaling against transformers' computation
of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.checkpoint.gguf_config import llama3_scaling
from sgl_runtime.errors import ConfigError

WriteGGUF = Callable[..., Path]
METADATA: dict[str, Any] = {
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 512,
    "llama.feed_forward_length": 1024,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 500000.0,
    "llama.rope.dimension_count": 128,
    "tokenizer.ggml.tokens": ["a", "b", "c", "d"],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
TENSORS = {"token_embd.weight": np.ones((4, 512), np.float16)}


def test_the_demonstration_model(demonstration: Path) -> None:
    config = read_config(demonstration)
    assert (config.architecture, config.model_type) == ("LlamaForCausalLM", "llama")
    assert (config.hidden_size, config.layers, config.intermediate_size, config.vocab_size) == (
        576,
        30,
        1536,
        49152,
    )
    assert (config.heads, config.kv_heads, config.head_dim) == (9, 3, 64)
    assert (config.context_length, config.rope.theta, config.rope.scaling) == (8192, 100000.0, None)
    assert (config.tie_embeddings, config.attention_bias, config.mlp_bias) == (True, False, False)
    assert np.float32(config.norm_eps) == np.float32(1e-5)
    assert (config.dtype, config.bos, config.eos) == ("float32", 1, (2,))


def test_metadata_becomes_the_same_config(write_gguf: WriteGGUF) -> None:
    config = read_config(write_gguf(TENSORS, METADATA))
    assert (config.hidden_size, config.heads, config.kv_heads, config.head_dim) == (512, 4, 2, 128)
    assert (config.vocab_size, config.dtype, config.tie_embeddings) == (4, "float16", True)
    more = {
        "llama.vocab_size": 8,
        "llama.attention.key_length": 64,
        "llama.rope.dimension_count": 64,
        "tokenizer.ggml.eot_token_id": 3,
        "tokenizer.ggml.eom_token_id": 2,
    }
    tensors = TENSORS | {
        "output.weight": np.ones((8, 512), np.float16),
        "blk.0.attn_q.bias": np.ones(512, np.float32),
        "blk.0.ffn_up.bias": np.ones(512, np.float32),
    }
    config = read_config(write_gguf(tensors, METADATA | more, name="more"))
    assert (config.vocab_size, config.head_dim, config.eos) == (8, 64, (2, 3))
    assert (config.tie_embeddings, config.attention_bias, config.mlp_bias) == (False, True, True)
    assert config.raw["eos_token_id"] == [2, 3]


@pytest.mark.parametrize(
    ("change", "scaling", "length"),
    [
        ({}, None, 4096),
        ({"type": "none", "factor": 4.0}, None, 4096),
        ({"type": "linear", "factor": 4.0}, {"rope_type": "linear", "factor": 4.0}, 16384),
        ({"factor": 2.0}, {"rope_type": "linear", "factor": 2.0}, 8192),
        (
            {"type": "yarn", "factor": 4.0, "original_context_length": 1024},
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
            4096,
        ),
    ],
)
def test_rope_scaling(
    change: dict[str, Any], scaling: dict[str, Any] | None, length: int, write_gguf: WriteGGUF
) -> None:
    metadata = METADATA | {f"llama.rope.scaling.{key}": value for key, value in change.items()}
    config = read_config(write_gguf(TENSORS, metadata))
    assert (config.rope.scaling, config.context_length) == (scaling, length)


def test_the_old_key_of_linear_scaling(write_gguf: WriteGGUF) -> None:
    config = read_config(write_gguf(TENSORS, METADATA | {"llama.rope.scale_linear": 4.0}))
    assert config.rope.scaling == {"rope_type": "linear", "factor": 4.0}


def factors_by_transformers(theta: float, head_dim: int, scaling: dict[str, Any]) -> Any:
    """What transformers divides each inverse frequency by."""

    def inverse(parameters: dict[str, Any]) -> Any:
        config = LlamaConfig(
            hidden_size=head_dim * 4,
            num_attention_heads=4,
            head_dim=head_dim,
            max_position_embeddings=131072,
            rope_parameters=parameters | {"rope_theta": theta},
        )
        frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        return frequencies.numpy()

    plain = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    return (plain / inverse(scaling)).astype(np.float32)


@pytest.mark.parametrize(
    ("factor", "theta", "head_dim"), [(8.0, 500000.0, 128), (32.0, 500000.0, 64), (4.0, 10000.0, 64)]
)
def test_llama_3_scaling_is_recovered_from_its_factors(
    factor: float, theta: float, head_dim: int, write_gguf: WriteGGUF
) -> None:
    published = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    factors = factors_by_transformers(theta, head_dim, published)
    assert llama3_scaling(factors, theta, head_dim) == published
    metadata = METADATA | {
        "llama.rope.freq_base": theta,
        "llama.attention.key_length": head_dim,
        "llama.rope.dimension_count": head_dim,
    }
    config = read_config(write_gguf(TENSORS | {"rope_freqs.weight": factors}, metadata))
    assert config.rope.scaling == published
    assert config.context_length == 4096


@given(
    st.sampled_from([2.0, 8.0, 16.0, 32.0]),
    st.floats(1.5, 8.0).map(lambda high: round(high, 2)),
    st.sampled_from([1024, 2048, 4096, 8192]),
    st.sampled_from([10000.0, 500000.0]),
)
@settings(max_examples=50, deadline=None)
def test_recovered_scaling_gives_the_same_factors(
    factor: float, high: float, original: int, theta: float
) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
    factors = factors_by_transformers(theta, 128, scaling)
    found = llama3_scaling(factors, theta, 128)
    # With fewer than two factors in between there is nothing to recover from.
    assume(found is not None or ((factors > 1.001) & (factors < factor * 0.999)).sum() >= 2)
    assert found is not None
    np.testing.assert_allclose(factors_by_transformers(theta, 128, found), factors, rtol=5e-3)


def test_factors_of_another_origin_are_refused(write_gguf: WriteGGUF) -> None:
    random = np.random.default_rng(0)
    perturbed = factors_by_transformers(
        500000.0,
        128,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    perturbed[-1] = 1.0
    for factors in (
        perturbed,
        random.uniform(1, 8, 64).astype(np.float32),
        np.ones(64, np.float32),
        np.full(64, np.nan, np.float32),
        np.ones(7, np.float32),
    ):
        with pytest.raises(ConfigError, match=r"rope_freqs\.weight"):
            read_config(write_gguf(TENSORS | {"rope_freqs.weight": factors}, METADATA))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"llama.expert_count": 8}, r"llama\.expert_count: experts cannot be served"),
        ({"llama.rope.dimension_count": 32}, r"llama\.rope\.dimension_count is 32, the head dimension 128"),
        ({"llama.embedding_length": None}, r"llama\.embedding_length is missing"),
        (
            {"llama.embedding_length": "wide"},
            r"llama\.embedding_length must be a positive integer, not 'wide'",
        ),
        ({"llama.attention.head_count": [4, 4]}, r"llama\.attention\.head_count must be a positive integer"),
        ({"llama.context_length": None}, r"llama\.context_length is missing"),
        (
            {"llama.attention.head_count_kv": 3},
            r"llama\.attention\.head_count_kv is 3, which does not divide",
        ),
        ({"llama.rope.scaling.type": 3, "llama.rope.scaling.factor": 2.0}, "rope_scaling needs rope_type"),
        ({"tokenizer.ggml.eos_token_id": 99}, r"eos_token_id is 99, beyond vocab_size"),
    ],
)
def test_a_wrong_key_is_named(change: dict[str, Any], message: str, write_gguf: WriteGGUF) -> None:
    metadata = {key: value for key, value in (METADATA | change).items() if value is not None}
    with pytest.raises(ConfigError, match=rf"model\.gguf: {message}"):
        read_config(write_gguf(TENSORS, metadata))
