# SPDX-License-Identifier: Apache-2.0
"""`KVPool`: keys and values of every layer, one token per slot. Whose a slot is, only the scheduler knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from sgl_kernels.attention import AttentionSpec
from torch import Tensor

_NARROW: Mapping[str, torch.dtype] = MappingProxyType(
    {"fp8_e5m2": torch.float8_e5m2, "fp8_e4m3": torch.float8_e4m3fn}
)


def cache_dtype(asked: str, dtype: torch.dtype) -> torch.dtype:
    """Of keys and values in the pool, for activations of `dtype`; `asked` as --kv-cache-dtype.

    Float8 without scales: what is beyond its range is stored as its largest number.
    """
    return dtype if asked == "auto" else _NARROW[asked]


def bytes_per_slot(specs: Sequence[AttentionSpec], dtype: torch.dtype) -> int:
    """Memory of one token over all layers on this rank, in a pool of this dtype."""
    return sum(spec.kv_heads * (spec.head_dim + _stored_v(spec)) for spec in specs) * dtype.itemsize


def _stored_v(spec: AttentionSpec) -> int:
    """Elements of a value that are not elements of its key."""
    return 0 if spec.latent else spec.v_dim


class KVPool:
    """Per layer, keys [slots, kv_heads, head_dim] and values [slots, kv_heads, v_dim]; undefined until
    written. The values of a latent spec are a view of its keys."""

    def __init__(
        self, specs: Sequence[AttentionSpec], slots: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.slots = slots
        self._layers = [_layer(spec, slots, dtype, device) for spec in specs]

    def __getitem__(self, layer: int) -> tuple[Tensor, Tensor]:
        return self._layers[layer]


def _layer(
    spec: AttentionSpec, slots: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    keys = torch.empty(slots, spec.kv_heads, spec.head_dim, dtype=dtype, device=device)
    if spec.latent:
        return keys, keys[..., : spec.v_dim]
    return keys, torch.empty(slots, spec.kv_heads, spec.v_dim, dtype=dtype, device=device)
