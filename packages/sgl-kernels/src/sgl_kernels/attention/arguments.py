# SPDX-License-Identifier: Apache-2.0
"""What every attention backend asks of its arguments before it trusts them: shapes, dtypes, lengths.

Looks only at what the host knows. That the slots lie inside the caches is the caller's promise.
"""

from __future__ import annotations

from operator import gt
from typing import NamedTuple

import torch
from torch import Tensor

from sgl_kernels._check import FLOAT8, FLOATS, INTEGERS, check, require
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout


class Size(NamedTuple):
    """How large a layout is: what a plan's buffers were made for."""

    requests: int
    queries: int
    tokens: int
    decode: bool  # one query a request


def check_layout(layout: PagedLayout) -> Size:
    """The size of a layout whose parts agree. Raises ValueError that begins with the part's name."""
    n = len(layout.q_lens)
    require(len(layout.kv_lens) == n, "kv_lens", f"has {len(layout.kv_lens)} requests, q_lens has {n}")
    require(min(layout.q_lens, default=1) > 0, "q_lens", "every request needs a query")
    require(
        not any(map(gt, layout.q_lens, layout.kv_lens)),
        "kv_lens",
        "counts a request's queries too, so it is no less than q_lens",
    )
    queries, tokens = sum(layout.q_lens), sum(layout.kv_lens)
    check("q_indptr", layout.q_indptr, [n + 1], dtypes=(torch.int32,))
    check("kv_indptr", layout.kv_indptr, [n + 1], like=layout.q_indptr)
    check("kv_slots", layout.kv_slots, [None], like=layout.q_indptr, dtypes=INTEGERS, contiguous=True)
    require(
        layout.kv_slots.shape[0] >= tokens,
        "kv_slots",
        f"has {layout.kv_slots.shape[0]} slots for {tokens} tokens",
    )
    return Size(n, queries, tokens, queries == n)


def check_no_larger(new: Size, made_for: Size) -> None:
    """Whether the buffers of a plan made for a layout hold another. Raises ValueError."""
    for what, have, most in (
        ("requests", new.requests, made_for.requests),
        ("queries", new.queries, made_for.queries),
        ("tokens", new.tokens, made_for.tokens),
    ):
        require(have <= most, "into", f"was made for at most {most} {what}, the layout has {have}")
    require(
        new.decode or not made_for.decode, "into", "was made for one query a request, the layout has more"
    )


def check_run(spec: AttentionSpec, queries: int, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """q and the caches are what a plan of this spec for so many queries reads. Raises ValueError."""
    check("q", q, [queries, spec.q_heads, spec.head_dim], dtypes=FLOATS, rows=True)
    check(
        "k_cache", k_cache, [None, spec.kv_heads, spec.head_dim], like=q, dtypes=(q.dtype, *FLOAT8), rows=True
    )
    check("v_cache", v_cache, [k_cache.shape[0], spec.kv_heads, spec.v_dim], like=k_cache, rows=True)
