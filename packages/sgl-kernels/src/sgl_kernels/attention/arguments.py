# SPDX-License-Identifier: Apache-2.0
"""What every attention backend asks of its arguments before it trusts them: shapes, dtypes, lengths.

Looks only at what the host knows. That the slots lie inside the caches is the caller's promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import add, gt
from typing import NamedTuple

import numpy as np
from torch import Tensor

from sgl_kernels._check import FLOAT8, FLOATS, INTEGERS, check, require
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout
from sgl_kernels.attention.splits import I64


class Size(NamedTuple):
    """How large a layout is: what a plan's buffers were made for."""

    requests: int
    queries: int
    tokens: int
    extends: int  # requests with several queries

    @property
    def decode(self) -> bool:
        """One query a request."""
        return not self.extends


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
    check("kv_slots", layout.kv_slots, [None], dtypes=INTEGERS, contiguous=True)
    room, end = layout.kv_slots.shape[0], tokens
    if layout.kv_starts is not None:
        require(
            len(layout.kv_starts) == n, "kv_starts", f"has {len(layout.kv_starts)} requests, q_lens has {n}"
        )
        require(min(layout.kv_starts, default=0) >= 0, "kv_starts", "must not be negative")
        end = max(map(add, layout.kv_starts, layout.kv_lens), default=0)
    require(room >= end, "kv_slots", f"has {room} slots, and the tokens of a request end at {end}")
    return Size(n, queries, tokens, sum(q_len > 1 for q_len in layout.q_lens))


def starts(lengths: Sequence[int] | I64) -> I64:
    """Where each of so many things begins, if they lie one after another."""
    ends = np.asarray(lengths, np.int64)
    first: I64 = ends.cumsum() - ends
    return first


def kv_starts(layout: PagedLayout) -> I64:
    """[n]: where each request's tokens begin in kv_slots."""
    return starts(layout.kv_lens) if layout.kv_starts is None else np.array(layout.kv_starts, np.int64)


def check_no_larger(new: Size, made_for: Size) -> None:
    """Whether the buffers of a plan made for a layout hold another. Raises ValueError."""
    for what, have, most in (
        ("requests", new.requests, made_for.requests),
        ("queries", new.queries, made_for.queries),
        ("tokens", new.tokens, made_for.tokens),
        ("requests with several queries", new.extends, made_for.extends),
    ):
        require(have <= most, "into", f"was made for at most {most} {what}, the layout has {have}")


def check_run(spec: AttentionSpec, queries: int, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> None:
    """q and the caches are what a plan of this spec for so many queries reads. Raises ValueError."""
    check("q", q, [queries, spec.q_heads, spec.head_dim], dtypes=FLOATS, rows=True)
    check(
        "k_cache", k_cache, [None, spec.kv_heads, spec.head_dim], like=q, dtypes=(q.dtype, *FLOAT8), rows=True
    )
    check("v_cache", v_cache, [k_cache.shape[0], spec.kv_heads, spec.v_dim], like=k_cache, rows=True)
