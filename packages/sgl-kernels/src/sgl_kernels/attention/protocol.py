# SPDX-License-Identifier: Apache-2.0
"""What the attention of a layer is, what the batch of a step looks like, what a backend does with them.

`plan` once per step and distinct spec, `run` once per layer: everything that depends only on lengths and
slots is worked out in `plan`. Query i of a request with q_len queries and kv_len visible tokens stands at
position kv_len - q_len + i and sees the positions up to its own, or the last `window` of them; without
`causal` it sees all kv_len tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class AttentionSpec:
    """The attention of one layer; static. `q_heads` is a multiple of `kv_heads`.

    Multi-head latent attention (DeepSeek-V2) is kv_heads=1, head_dim=576, v_dim=512, latent=True, where the
    values are the first 512 elements of the keys: pass `k_cache[..., :512]` as the cache of values.
    """

    q_heads: int
    kv_heads: int
    head_dim: int  # of queries and keys
    v_dim: int  # of values and outputs
    scale: float  # multiplies the scores
    window: int | None = None  # a query sees at most this many tokens, itself included
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap) before the mask
    causal: bool = True  # False: every query of a request sees all its tokens (images); goes with no window
    latent: bool = False  # values are the first v_dim elements of the keys, and stored nowhere else


class SharedPrefix(NamedTuple):
    """Requests first..first + rows of a layout begin with the same `tokens` slots."""

    first: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class PagedLayout:
    """The n requests of one step; shared by all layers. Pages are single tokens.

    The queries of the requests lie one after another. The kv_lens[r] tokens of request r, in order of
    position, lie in the slots kv_slots[kv_starts[r] :][: kv_lens[r]] of every layer's cache; so kv_slots may
    be a page table as it is, seen as one row. 0 < q_len <= kv_len. All of these slots exist and hold finite
    values, those before a window too: a backend may read a few of them.
    """

    kv_slots: Tensor  # [any] int32 or int64
    q_lens: tuple[int, ...]  # [n]
    kv_lens: tuple[int, ...]  # [n]
    kv_starts: tuple[int, ...] | None = None  # [n]; None: the tokens, too, lie one after another
    # Disjoint, ascending; a hint that lets a backend read common tokens once for all rows of a group. Each
    # member has a query of its own beyond the prefix: tokens <= kv_len - q_len.
    shared: tuple[SharedPrefix, ...] = ()


class Plan:
    """What a backend worked out for one layout and spec. Opaque to everyone else; good for one step."""


class AttentionBackend(Protocol):
    """Paged attention on one device."""

    name: str
    # Plans of which steps may be refilled on a CUDA device, and so captured: of one query a request, or any.
    refills: Literal["none", "decode", "any"]

    def supports(self, spec: AttentionSpec) -> bool:
        """Whether `plan` accepts this spec."""
        ...

    def plan(self, layout: PagedLayout, spec: AttentionSpec, into: Plan | None = None) -> Plan:
        """Prepare one step. The layout's tensors must stay as they are until the step's last `run`.

        into: a plan of this backend and spec, whose buffers are refilled and which is returned. A CUDA graph
        captured with it computes the new layout when replayed, provided that the layout's tensors are the
        ones it was captured with (same addresses, new contents). The new layout must be no larger: at most as
        many requests, requests with several queries, queries and tokens as that plan's layout had. Raises
        ValueError otherwise. `plan` itself is never captured.
        """
        ...

    def run(
        self,
        plan: Plan,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        *,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> Tensor:
        """q [Σq, hq, d], k_cache [S, hk, d], v_cache [S, hk, dv] -> [Σq, hq, dv] of q's dtype.

        The keys and values of this step's own tokens are already in the caches, in q's dtype, or in
        float8_e4m3fn or float8_e5m2 if a stored element times k_scale (v_scale) is the key's (value's). All
        tensors may be strided views whose last dimension is contiguous. Safe to capture in a CUDA graph.
        """
        ...
