# SPDX-License-Identifier: Apache-2.0
"""Frequencies of rotary position embedding, as published configs spell them.

Su et al., "RoFormer", 2021. Frequencies are fixed for the life of a server, because the keys in its cache are
already rotated: schemes that choose by length choose by the longest sequence the server admits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_TYPES = "default, linear, dynamic, llama3, yarn, longrope"


def rope_frequencies(
    rotary_dim: int,
    theta: float,
    scaling: Mapping[str, Any] | None,
    max_position: int,
    *,
    context_length: int | None = None,
) -> tuple[Tensor, float]:
    """(inv_freq [rotary_dim/2] float32, attention_factor): angle per position, factor on cos and sin.

    rotary_dim: how many of a head's dimensions rotate (head_dim, or its `partial_rotary_factor`). scaling:
    the published `rope_scaling` dict, its scheme under "rope_type" or "type", or None. max_position:
    `max_position_embeddings` of the config. context_length: the longest sequence that will be seen,
    `max_position` if None; "dynamic" and "longrope" choose by it. A config that keeps
    `original_max_position_embeddings` beside the dict must put it in; without it "llama3" and "yarn" take
    `max_position`.

    Raises ValueError, naming the field, if the scaling is unknown or incomplete.
    """
    # In float32 throughout: models were trained with these roundings, and at position 10⁵ they matter.
    powers = theta ** (torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim)
    plain = 1.0 / powers
    if scaling is None:
        return plain, 1.0
    match scaling.get("rope_type", scaling.get("type", "default")):
        case "default":
            return plain, 1.0
        case "linear":
            return plain / _number(scaling, "factor"), 1.0
        case "dynamic":
            length = max(context_length or max_position, max_position)
            return _dynamic(rotary_dim, theta, _number(scaling, "factor"), length / max_position), 1.0
        case "llama3":
            return _llama3(plain, scaling, max_position), 1.0
        case "yarn":
            return _yarn(powers, rotary_dim, theta, scaling, max_position)
        case "longrope" | "su":
            return _longrope(powers, scaling, max_position, context_length or max_position)
        case other:
            raise ValueError(f"rope_scaling: rope_type {other!r} is not supported; supported: {_TYPES}")


def _dynamic(rotary_dim: int, theta: float, factor: float, stretch: float) -> Tensor:
    """NTK-aware scaling of the base. Source: the Reddit posts of bloc97 and emozilla, 2023; Peng et al.
    (below), A.2.
    """
    base = theta * (factor * stretch - (factor - 1)) ** (rotary_dim / (rotary_dim - 2))
    return 1.0 / base ** (torch.arange(0, rotary_dim, 2, dtype=torch.int64).float() / rotary_dim)


def _llama3(plain: Tensor, scaling: Mapping[str, Any], max_position: int) -> Tensor:
    """Long waves slow down by `factor`, short ones stay, those between are mixed. Source: Llama 3.1's
    reference code.
    """
    factor = _number(scaling, "factor")
    low, high = _number(scaling, "low_freq_factor"), _number(scaling, "high_freq_factor")
    if low >= high:
        raise ValueError("rope_scaling: low_freq_factor must be below high_freq_factor")
    original = _number(scaling, "original_max_position_embeddings", max_position)
    turns = original / (2 * math.pi / plain)  # of each wave within the original context
    keep = (turns - low) / (high - low)
    mixed = (1 - keep) * plain / factor + keep * plain
    return torch.where(turns < low, plain / factor, torch.where(turns > high, plain, mixed))


def _yarn(
    powers: Tensor, rotary_dim: int, theta: float, scaling: Mapping[str, Any], max_position: int
) -> tuple[Tensor, float]:
    """Interpolate the dimensions that turn less than beta_slow times in the original context, keep those
    that turn more than beta_fast times, ramp between. Source: Peng et al., "YaRN", 2023, §3.2 to §3.4.
    """
    original = _number(scaling, "original_max_position_embeddings", max_position)
    factor = _number(scaling, "factor", max_position / original)

    def dimension(turns: float) -> float:
        return rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(_number(scaling, "beta_fast", 32)), dimension(_number(scaling, "beta_slow", 1))
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotary_dim - 1)
    width = high - low or 0.001
    ramp = ((torch.arange(rotary_dim // 2).float() - low) / width).clamp(0, 1)
    frequencies = ramp / (factor * powers) + (1 - ramp) / powers

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    attention = magnitude(1.0)
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):  # DeepSeek's pair of knobs
        attention = magnitude(_number(scaling, "mscale")) / magnitude(_number(scaling, "mscale_all_dim"))
    return frequencies, _number(scaling, "attention_factor", attention)


def _longrope(
    powers: Tensor, scaling: Mapping[str, Any], max_position: int, context_length: int
) -> tuple[Tensor, float]:
    """A searched factor per dimension, one list for contexts up to the original length and one for longer
    ones.

    Source: Ding et al., "LongRoPE", 2024.
    """
    original = _number(scaling, "original_max_position_embeddings")
    field = "long_factor" if context_length > original else "short_factor"
    factors = scaling.get(field)
    if (
        not isinstance(factors, (list, tuple))
        or len(factors) != len(powers)
        or not all(isinstance(factor, (int, float)) for factor in factors)
    ):
        raise ValueError(f"rope_scaling: {field} must be a list of {len(powers)} numbers")
    factor = _number(scaling, "factor", max_position / original)
    attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return 1.0 / (torch.tensor(factors) * powers), _number(scaling, "attention_factor", attention)


def _number(scaling: Mapping[str, Any], field: str, default: float | None = None) -> float:
    value = scaling.get(field)
    if value is None:
        value = default
    if value is None:
        raise ValueError(f"rope_scaling: {field} is missing")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"rope_scaling: {field} must be a positive number, not {value!r}")
    return value
