# SPDX-License-Identifier: Apache-2.0
"""Writing keys and values into the paged cache. A page is one token: a slot is a row of the cache."""

from __future__ import annotations

from torch import Tensor


def store_kv(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor) -> None:
    """`k_cache[slots] = k; v_cache[slots] = v`.

    k [T, hk, d] and v [T, hk, dv] (may be strided views of one projection); caches [S, hk, d] and [S, hk, dv]
    of the same dtype; slots [T], int64 (int32 is converted), no slot twice.
    """
    slots = slots.long()
    k_cache.index_copy_(0, slots, k)
    v_cache.index_copy_(0, slots, v)
