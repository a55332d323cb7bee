# SPDX-License-Identifier: Apache-2.0
"""Which requests to compute together when all are padded to the longest: few calls against little padding.

Arithmetic on lengths; knows nothing of attention or tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def partition(lengths: Sequence[int], *, call_cost: int, limit: int) -> list[list[int]]:
    """Indices into `lengths`, in buckets (ascending within each) of least total cost.

    A bucket of b requests, the longest of L tokens, costs b * L + call_cost. It holds at most `limit` padded
    tokens, unless it holds a single request. Sorted by length the buckets of an optimum are runs, so the
    optimum of every prefix follows from those of the shorter prefixes: n steps of at most n comparisons.
    """
    n = len(lengths)
    order = np.argsort(np.asarray(lengths, dtype=np.int64), kind="stable")
    ascending = np.asarray(lengths, dtype=np.int64)[order].tolist()
    best = np.zeros(n + 1, dtype=np.int64)  # best[j]: cost of the j shortest
    begin = [0] * (n + 1)  # begin[j]: where the last bucket of that optimum begins
    widths = np.arange(n, 0, -1)
    for j, longest in enumerate(ascending, start=1):
        first = max(0, j - max(1, limit // longest))
        costs = best[first:j] + widths[n - j + first :] * longest
        choice = int(costs.argmin())
        begin[j] = first + choice
        best[j] = costs[choice] + call_cost
    buckets = []
    while n:
        buckets.append(sorted(order[begin[n] : n].tolist()))
        n = begin[n]
    return buckets[::-1]
