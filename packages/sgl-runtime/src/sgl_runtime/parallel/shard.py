# SPDX-License-Identifier: Apache-2.0
"""Which part of a checkpoint tensor one rank holds, and the parameter that knows it.

A `Shard` may stack several checkpoint tensors (q, k and v; gate and up); it is loaded one tensor at a time
and remembers which are missing. It knows neither how sizes are divided (`checkpoint.division`) nor the names
under which a checkpoint stores its tensors.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sgl_runtime.checkpoint.division import Span

PartName: TypeAlias = str | int | None


@dataclass(frozen=True)
class Part:
    """What this rank keeps of one dimension of one checkpoint tensor: `own`, out of `size`."""

    size: int
    own: Span
    name: PartName = None  # which of several tensors that are stacked along this dimension

    @classmethod
    def whole(cls, size: int, name: PartName = None) -> Part:
        return cls(size, Span(0, size), name)


@dataclass(frozen=True)
class _Placement:
    stored: tuple[int, ...]  # shape in the checkpoint
    source: tuple[slice, ...]  # of the checkpoint tensor
    target: tuple[slice, ...]  # of this parameter


class Misfit(Exception):
    """A tensor of a checkpoint does not fill the part that it is meant for; says why, not which."""


class Shard(nn.Parameter):
    """A parameter that holds this rank's slice of one checkpoint tensor, or of several stacked in one matrix.

    `dims` gives the parts of each dimension; at most one dimension has more than one. The value is
    undefined until every part in `missing` has been loaded.
    """

    missing: set[PartName]
    stacked: int  # the dimension along which parts lie
    _placements: dict[PartName, _Placement]

    def __new__(cls, dims: Sequence[Sequence[Part]], dtype: torch.dtype, device: torch.device) -> Shard:
        shape = [sum(part.own.length for part in dim) for dim in dims]
        shard = nn.Parameter.__new__(cls, torch.empty(shape, dtype=dtype, device=device), False)
        assert isinstance(shard, Shard)
        return shard

    def __init__(self, dims: Sequence[Sequence[Part]], dtype: torch.dtype, device: torch.device) -> None:
        del dtype, device  # __new__ used them
        assert sum(len(dim) > 1 for dim in dims) <= 1, "only one dimension is stacked"
        self.stacked = next((place for place, dim in enumerate(dims) if len(dim) > 1), 0)
        self._placements = {}
        ends = [0] * len(dims)
        for parts in itertools.product(*dims):
            name = next((part.name for dim, part in zip(dims, parts, strict=True) if len(dim) > 1), None)
            starts = [end if len(dim) > 1 else 0 for dim, end in zip(dims, ends, strict=True)]
            ends = [start + part.own.length for start, part in zip(starts, parts, strict=True)]
            self._placements[name] = _Placement(
                stored=tuple(part.size for part in parts),
                source=tuple(slice(part.own.start, part.own.stop) for part in parts),
                target=tuple(slice(start, end) for start, end in zip(starts, ends, strict=True)),
            )
        self.missing = set(self._placements)

    @property
    def parts(self) -> tuple[PartName, ...]:
        """Names of the tensors that fill this parameter; `(None,)` when it is one tensor."""
        return tuple(self._placements)

    def stored_shape(self, part: PartName = None) -> tuple[int, ...]:
        """Shape of the whole tensor as a checkpoint stores it."""
        return self._placements[part].stored

    def load(self, tensor: Tensor, part: PartName = None) -> None:
        """Copy this rank's slice of `tensor`, the whole tensor of the checkpoint, converting its dtype.

        Raises Misfit on another shape than `stored_shape` and when this part has been loaded before.
        """
        placement = self._placements[part]
        if part not in self.missing:
            raise Misfit("stored twice")
        if tuple(tensor.shape) != placement.stored:
            raise Misfit(f"stored as {list(tensor.shape)}, expected {list(placement.stored)}")
        self.data[placement.target].copy_(tensor[placement.source])
        self.missing.discard(part)
