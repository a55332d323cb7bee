# SPDX-License-Identifier: Apache-2.0
"""A few queries after a long prefix, as requests of one query each that share the prefix.

The tiles of `extend` are few where queries are few, and each walks the whole prefix: most of the GPU waits.
`decode` divides a prefix among all of it, reads it once for all rows that share it, and merges: to it, query
i of a request is a request whose tokens are the prefix and i + 1 more. Only lengths are looked at here.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sgl_kernels._triton.decode_plan import processors, shared_tile_for
from sgl_kernels._triton.extend_plan import tile_rows
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout, SharedPrefix
from sgl_kernels.attention.splits import I64

# Expected, not measured: one program walks a shorter prefix in less time than a launch and merging take.
LEAST_PREFIX = 1024


def few_queries(spec: AttentionSpec, q_lens: I64, kv_lens: I64, device: torch.device) -> NDArray[np.bool_]:
    """Of the requests of a step, which have several queries that `decode` computes sooner. [n]"""
    group = spec.q_heads // spec.kv_heads
    several = q_lens > 1
    rows = tile_rows(spec, int(q_lens.max(initial=1)) * group)
    programs = spec.kv_heads * int((-(-q_lens[several] * group // rows)).sum())
    if not spec.causal or spec.window is not None or programs >= processors(device):
        return np.zeros_like(several)
    at_once = shared_tile_for(spec).rows // group  # queries that read the prefix together
    return several & (q_lens <= at_once) & (kv_lens - q_lens >= LEAST_PREFIX)


def one_query_each(
    layout: PagedLayout, chosen: NDArray[np.bool_], starts: tuple[I64, I64]
) -> tuple[PagedLayout, I64, I64, I64]:
    """What `plan_decode` asks for, of requests that stand for the queries of the chosen ones: a layout (its
    lengths, slots and shared prefixes; there is room for every query of the given one), the requests'
    numbers, and where their queries and tokens begin."""
    q_lens, kv_lens = np.array(layout.q_lens, np.int64), np.array(layout.kv_lens, np.int64)
    which = chosen.nonzero()[0]
    counts = q_lens[which]
    first = counts.cumsum() - counts
    index = np.arange(counts.sum()) - np.repeat(first, counts)
    prefix = kv_lens[which] - counts
    lengths = np.repeat(prefix, counts) + index + 1
    shared = {}
    for place, rows, tokens in zip(first.tolist(), counts.tolist(), prefix.tolist(), strict=True):
        if rows > 1 and tokens > 0:
            shared[place] = SharedPrefix(place, rows, tokens)
    place_of = dict(zip(which.tolist(), first.tolist(), strict=True))
    for group in layout.shared:
        members = range(group.first, group.first + group.rows)
        if all(q_lens[member] == 1 and member in place_of for member in members):
            shared[place_of[group.first]] = SharedPrefix(place_of[group.first], group.rows, group.tokens)
    single = PagedLayout(
        layout.kv_slots,
        q_lens=(1,) * sum(layout.q_lens),
        kv_lens=tuple(lengths.tolist()),
        shared=tuple(shared[place] for place in sorted(shared)),
    )
    q_starts = np.repeat(starts[0][which], counts) + index
    return single, np.arange(len(lengths)), q_starts, np.repeat(starts[1][which], counts)
