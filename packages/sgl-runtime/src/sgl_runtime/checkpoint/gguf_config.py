# SPDX-License-Identifier: Apache-2.0
"""GGUF metadata of a Llama, spelled as that model's config.json.

GGUF keeps the scaling of Llama 3.1's RoPE as a tensor of factors, not as the numbers they were computed
from; those numbers are recovered here and checked by computing the factors again. What the numbers mean is
`config.py`'s.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.errors import ConfigError

# config.json's name: GGUF's name
GGUF_NAMES = {
    "vocab_size": "llama.vocab_size",
    "hidden_size": "llama.embedding_length",
    "num_hidden_layers": "llama.block_count",
    "num_attention_heads": "llama.attention.head_count",
    "num_key_value_heads": "llama.attention.head_count_kv",
    "head_dim": "llama.attention.key_length",
    "intermediate_size": "llama.feed_forward_length",
    "max_position_embeddings": "llama.context_length",
    "rms_norm_eps": "llama.attention.layer_norm_rms_epsilon",
    "rope_theta": "llama.rope.freq_base",
    "bos_token_id": "tokenizer.ggml.bos_token_id",
}
# A model may end its turn with another token than the text.
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say; a key that the metadata lacks is absent.

    Raises ConfigError for metadata that a Llama of this server does not have: experts, partial rotation, RoPE
    factors of unknown origin.
    """
    metadata = file.metadata
    config = {name: metadata[key] for name, key in GGUF_NAMES.items() if key in metadata}
    config |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "tie_word_embeddings": "output.weight" not in file,
        "attention_bias": "blk.0.attn_q.bias" in file,
        "mlp_bias": "blk.0.ffn_up.bias" in file,
        "dtype": file.dtype,
    }
    if "vocab_size" not in config and "tokenizer.ggml.tokens" in metadata:
        config["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    ends = [metadata[f"tokenizer.ggml.{key}"] for key in _END_TOKENS if f"tokenizer.ggml.{key}" in metadata]
    if ends:
        config["eos_token_id"] = list(dict.fromkeys(ends))
    if metadata.get("llama.expert_count", 0):
        raise ConfigError(f"{file.path}: llama.expert_count: experts cannot be served from a GGUF file")
    _check_rotation(file, config)
    if (scaling := _rope_scaling(file, config)) is not None:
        config["rope_scaling"] = scaling
    return config


def _head_dim(config: dict[str, Any]) -> int:
    """0 if the numbers it follows from are missing or wrong: `config.py` says which."""
    names = ("head_dim", "hidden_size", "num_attention_heads")
    given, hidden_size, heads = (
        value if isinstance(value := config.get(name), int) and value > 0 else 0 for name in names
    )
    return given or (hidden_size // heads if heads else 0)


def _check_rotation(file: GGUFFile, config: dict[str, Any]) -> None:
    rotated = file.metadata.get("llama.rope.dimension_count")
    if rotated is not None and _head_dim(config) and rotated != _head_dim(config):
        raise ConfigError(
            f"{file.path}: llama.rope.dimension_count is {rotated}, the head dimension {_head_dim(config)}; "
            f"a partly rotated head cannot be served"
        )


def _rope_scaling(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any] | None:
    metadata = file.metadata
    if (factors := file.rope_factors) is not None:
        theta = config.get("rope_theta", 10000.0)
        scaling = llama3_scaling(factors, theta, _head_dim(config)) if isinstance(theta, float) else None
        if scaling is None:
            raise ConfigError(f"{file.path}: rope_freqs.weight does not hold Llama 3.1's RoPE scaling")
        return scaling
    kind = metadata.get("llama.rope.scaling.type", "linear")
    factor = metadata.get("llama.rope.scaling.factor", metadata.get("llama.rope.scale_linear", 0))
    if kind == "none" or factor == 0:
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if (original := metadata.get("llama.rope.scaling.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = original
    return scaling


def llama3_scaling(factors: NDArray[np.float32], theta: float, head_dim: int) -> dict[str, Any] | None:
    """The `rope_scaling` of config.json from which these factors follow, or None if there is none.

    `factors` is [head_dim / 2]: what each inverse frequency f is divided by. Llama 3.1 keeps f where its
    wavelength is short, divides it by `factor` where it is long, and in between divides it by 1 / ((1 - s) /
    factor + s) with s = (original * f / 2π - low) / (high - low). That is linear in f, so the factors in
    between give slope and intercept; they fix (original, low, high) up to a common scale, which cancels
    everywhere, and low is published as 1.
    """
    if head_dim != 2 * len(factors) or not np.isfinite(factors).all() or factors.min() < 0.999:
        return None
    inverse = theta ** (-np.arange(len(factors)) * 2.0 / head_dim)
    factor = round(float(factors.max()), 4)
    between = (factors > 1.0001) & (factors < factor * 0.9999)
    if factor <= 1 or between.sum() < 2:
        return None
    smooth = (1 / factors[between].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    slope, intercept = np.polyfit(inverse[between], smooth, 1)
    if not intercept < 0 < slope:
        return None
    high = 1 - 1 / intercept
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": round(float(high), 2),
        "original_max_position_embeddings": round(float(slope * 2 * math.pi * (high - 1))),
    }
    recomputed = _llama3_factors(inverse, scaling)
    return scaling if np.allclose(recomputed, factors, rtol=2e-3) else None


def _llama3_factors(inverse: NDArray[np.float64], scaling: dict[str, Any]) -> NDArray[np.float64]:
    low, high, factor = scaling["low_freq_factor"], scaling["high_freq_factor"], scaling["factor"]
    turns = scaling["original_max_position_embeddings"] * inverse / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return np.asarray(1 / ((1 - smooth) / factor + smooth))
