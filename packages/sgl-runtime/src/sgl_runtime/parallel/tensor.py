# SPDX-License-Identifier: Apache-2.0
"""`TensorParallel`: the ranks of one replica, as a layer sees them; alone, every operation is the identity.

Collectives run in the order in which they are called, which is the same on every rank because every rank
runs the same `Batch`. How the ranks found each other is `rendezvous`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class TensorParallel:
    """Rank `rank` of `size`, which computes on `device`."""

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = field(default=None, repr=False)  # None: alone

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size
        assert (self.group is None) == (self.size == 1)

    @classmethod
    def alone(cls, device: torch.device = _CPU) -> TensorParallel:
        return cls(rank=0, size=1, device=device)

    @property
    def leads(self) -> bool:
        """Is this the rank that samples?"""
        return self.rank == 0

    def all_reduce(self, x: Tensor) -> Tensor:
        """Sum `x` over the ranks, in place; returns it."""
        if self.group is not None:
            dist.all_reduce(x, group=self.group)
        return x

    def all_gather(self, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """Concatenate every rank's `x` along the last dimension, where rank r has `sizes[r]` elements."""
        if self.group is None:
            return x
        assert x.shape[-1] == sizes[self.rank]
        widest = max(sizes)
        padded = functional.pad(x, (0, widest - x.shape[-1])).contiguous()
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded, group=self.group)
        return torch.cat([part[..., :size] for part, size in zip(gathered, sizes, strict=True)], dim=-1)

    def broadcast(self, x: Tensor) -> Tensor:
        """Overwrite `x` with rank 0's, in place; returns it."""
        if self.group is not None:
            dist.broadcast(x, group=self.group, group_src=0)
        return x

    def close(self) -> None:
        """Leave the group. Every rank calls it, or none."""
        if self.group is not None:
            dist.destroy_process_group(self.group)
