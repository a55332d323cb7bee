# SPDX-License-Identifier: Apache-2.0
"""GGUF metadata, spelled as the config.json of the same model.

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

# config.json's name: GGUF's name, under the architecture's prefix
_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_BOS = "tokenizer.ggml.bos_token_id"
# A model may end its turn with another token than the text.
_END_TOKENS = ("eos_token_id", "eot_token_id", "eom_token_id")
# The format leaves out what the models of a family share. The largest of Gemma 2 and 3, known by their
# layers, scale scores by another width than the head's.
_LARGEST = {"gemma2": 46, "gemma3": 62}
_LOCAL_THETA = {"gemma3": 10000.0}


def gguf_names(file: GGUFFile) -> dict[str, str]:
    """config.json's name of a field -> its key in the file, for error messages."""
    return {name: f"{file.prefix}.{key}" for name, key in _NAMES.items()} | {"bos_token_id": _BOS}


def config_from_gguf(file: GGUFFile) -> dict[str, Any]:
    """What config.json would say; a key that the metadata lacks is absent.

    Raises ConfigError for metadata that no model of this server has: experts, partial rotation, RoPE factors
    of unknown origin.
    """
    metadata, prefix = file.metadata, file.prefix
    config = {name: metadata[key] for name, key in gguf_names(file).items() if key in metadata}
    config |= {
        "architectures": [file.architecture.class_name],
        "model_type": file.architecture.model_type,
        "hidden_act": "gelu_pytorch_tanh" if prefix.startswith("gemma") else "silu",
        "tie_word_embeddings": "output.weight" not in file,
        "attention_bias": "blk.0.attn_output.bias" in file or "blk.0.attn_q.bias" in file,
        "mlp_bias": "blk.0.ffn_up.bias" in file,
        "dtype": file.dtype,
    }
    if "vocab_size" not in config and "tokenizer.ggml.tokens" in metadata:
        config["vocab_size"] = len(metadata["tokenizer.ggml.tokens"])
    ends = [metadata[f"tokenizer.ggml.{key}"] for key in _END_TOKENS if f"tokenizer.ggml.{key}" in metadata]
    if ends:
        config["eos_token_id"] = list(dict.fromkeys(ends))
    if file.get("expert_count", 0):
        raise ConfigError(f"{file.path}: {prefix}.expert_count: experts cannot be served from a GGUF file")
    if prefix in _LARGEST and (head_dim := _head_dim(config)):
        largest = config.get("num_hidden_layers") == _LARGEST[prefix]
        config["query_pre_attn_scalar"] = (
            config["hidden_size"] // config["num_attention_heads"] if largest else head_dim
        )
    if prefix in _LOCAL_THETA:
        config["rope_local_base_freq"] = file.get("rope.freq_base_swa", _LOCAL_THETA[prefix])
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
    rotated = file.get("rope.dimension_count")
    head_dim = _head_dim(config)
    if rotated is not None and head_dim and rotated != head_dim:
        raise ConfigError(
            f"{file.path}: {file.prefix}.rope.dimension_count is {rotated}, the head dimension {head_dim}; "
            f"a partly rotated head cannot be served"
        )


def _rope_scaling(file: GGUFFile, config: dict[str, Any]) -> dict[str, Any] | None:
    if (factors := file.rope_factors) is not None:
        theta = config.get("rope_theta", 10000.0)
        scaling = llama3_scaling(factors, theta, _head_dim(config)) if isinstance(theta, float) else None
        if scaling is None:
            raise ConfigError(f"{file.path}: rope_freqs.weight does not hold Llama 3.1's RoPE scaling")
        return scaling
    kind = file.get("rope.scaling.type", "linear")
    factor = file.get("rope.scaling.factor", file.get("rope.scale_linear", 0))
    if kind == "none" or factor == 0:
        return None
    scaling = {"rope_type": kind, "factor": factor}
    if (original := file.get("rope.scaling.original_context_length")) is not None:
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
