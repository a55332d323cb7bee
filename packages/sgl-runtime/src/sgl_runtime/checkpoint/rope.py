# SPDX-License-Identifier: Apache-2.0
"""How a configuration says which dimensions of a head rotate, and how fast.

The base and the scaling stand in `rope_theta` and `rope_scaling`, or together in `rope_parameters`, which may
hold one set for each type of layer. What a scaling computes is `sgl_kernels.rope_frequencies`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sgl_runtime.checkpoint.fields import Fields

_THETA = ("rope_theta", "rotary_emb_base")
_ROTATED = ("partial_rotary_factor", "rotary_pct", "rope_pct")
_BESIDE = ("rope_theta", "type", "rope_type", "partial_rotary_factor")  # in the object, but no scaling
_BY_LAYER = {"full_attention", "sliding_attention"}


class Rope(msgspec.Struct, frozen=True, kw_only=True):
    """The rotary embedding of some layers of a model."""

    theta: float
    scaling: Mapping[str, Any] | None  # as published, its kind under `rope_type`; None: plain RoPE
    rotary_dim: int  # how many of a head's dimensions rotate: the first


def read_rope(config: Fields, head_dim: int) -> tuple[Rope, Rope]:
    """The RoPE of layers that see everything and of those with a sliding window: the same, unless the file
    tells them apart.

    Raises ConfigError naming the field if one is wrong or a kind is missing.
    """
    name = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    given = config.values.get(name)
    if given is not None and not isinstance(given, Mapping):
        config.fail(name, f"must be an object, not {given!r}")
    if given is not None and any(isinstance(value, Mapping) for value in given.values()):
        if not set(given) <= _BY_LAYER or "full_attention" not in given:
            config.fail(name, f"has a RoPE for each of {', '.join(given)}, which cannot be served")
        of_all = _one(config, name, given["full_attention"], head_dim)
        return of_all, _one(config, name, given.get("sliding_attention", given["full_attention"]), head_dim)
    of_all = _one(config, name, given, head_dim)
    if not config.has("rope_local_base_freq"):
        return of_all, of_all
    local = Rope(theta=config.number("rope_local_base_freq"), scaling=None, rotary_dim=of_all.rotary_dim)
    return of_all, local


def _one(config: Fields, name: str, given: Mapping[str, Any] | None, head_dim: int) -> Rope:
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        config.fail(name, f"must hold objects, not {given!r}")
    parameters = Fields(config.file, given)
    theta = parameters.number("rope_theta", config.number(_THETA, 10000.0))
    scaling = {key: value for key, value in given.items() if key not in _BESIDE}
    kind = given.get("rope_type") or given.get("type") or ("default" if not scaling else None)
    if not isinstance(kind, str):
        config.fail(name, f"needs rope_type, the kind of scaling; it is {dict(given)!r}")
    if kind != "default" and config.has("original_max_position_embeddings"):
        scaling.setdefault(
            "original_max_position_embeddings", config.integer("original_max_position_embeddings")
        )
    return Rope(
        theta=theta,
        scaling=None if kind == "default" else {"rope_type": kind, **scaling},
        rotary_dim=_rotary_dim(config, parameters, head_dim),
    )


def _rotary_dim(config: Fields, parameters: Fields, head_dim: int) -> int:
    """Given as a number of dimensions, or as a share of the head's."""
    if config.has("rotary_dim"):
        return config.integer("rotary_dim")
    part = parameters.number("partial_rotary_factor", config.number(_ROTATED, 1.0))
    if part > 1:
        config.fail(config.spelled(_ROTATED), f"must be at most 1, not {part}")
    return int(head_dim * part)
