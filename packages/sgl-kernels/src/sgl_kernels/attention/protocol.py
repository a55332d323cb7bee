# SPDX-License-Identifier: Apache-2.0
"""What the attention of a layer is, what the batch of a step looks like, what a backend does with them.

`plan` once per step and distinct spec, `run` once per layer: everything that depends only on lengths and
slots is worked out in `plan`. Query i of a request with q_len queries and kv_len visible tokens stands at
position kv_len - q_len + i and sees the positions up to its own, or the last `window` of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """The attention of one layer; static. `q_heads` is a multiple of `kv_heads`."""

    q_heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    v_dim: int  # of values and outputs
    scale: float  # multiplies the scores
    window: int | None = None  # a query sees at most this many tokens, itself included
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap) before the mask


@dataclass(frozen=True)
class PagedLayout:
    """The n requests of one step; shared by all layers. Pages are single tokens.

    Request r owns queries [q_indptr[r], q_indptr[r+1]) and its kv_lens[r] tokens, in order of position, lie
    in the slots kv_slots[kv_indptr[r] : kv_indptr[r+1]] of every layer's cache. 0 < q_len <= kv_len.
    """

    q_indptr: Tensor  # [n+1] int32
    kv_indptr: Tensor  # [n+1] int32
    kv_slots: Tensor  # [Σkv] int32 or int64
    q_lens: tuple[int, ...]  # [n] host copies, for planners that must look
    kv_lens: tuple[int, ...]  # [n]


class Plan:
    """What a backend worked out for one layout and spec. Opaque to everyone else; good for one step."""


class AttentionBackend(Protocol):
    """Paged attention on one device."""

    name: str

    def supports(self, spec: AttentionSpec) -> bool:
        """Whether `plan` accepts this spec."""
        ...

    def plan(self, layout: PagedLayout, spec: AttentionSpec) -> Plan:
        """Prepare one step. Reads the layout, and does not need it afterwards."""
        ...

    def run(self, plan: Plan, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
        """q [Σq, hq, d], k_cache [S, hk, d], v_cache [S, hk, dv] -> [Σq, hq, dv], all of one dtype.

        The keys and values of this step's own tokens are already in the caches. q may be a strided view; the
        caches are contiguous.
        """
        ...
