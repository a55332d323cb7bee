# SPDX-License-Identifier: Apache-2.0
"""The partition against all partitions."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels.attention.buckets import partition


def all_partitions(items: list[int]) -> Iterator[list[list[int]]]:
    if not items:
        yield []
        return
    first, *rest = items
    for parts in all_partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


def cost(lengths: list[int], buckets: list[list[int]], call_cost: int) -> int:
    return sum(len(bucket) * max(lengths[i] for i in bucket) + call_cost for bucket in buckets)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 50), max_size=6), st.integers(0, 100), st.integers(1, 200))
def test_no_partition_is_cheaper(lengths: list[int], call_cost: int, limit: int) -> None:
    buckets = partition(lengths, call_cost=call_cost, limit=limit)
    assert sorted(i for bucket in buckets for i in bucket) == list(range(len(lengths)))
    assert all(bucket == sorted(bucket) for bucket in buckets)

    def allowed(candidate: list[list[int]]) -> bool:
        return all(len(b) == 1 or len(b) * max(lengths[i] for i in b) <= limit for b in candidate)

    assert allowed(buckets)
    best = min(cost(lengths, c, call_cost) for c in all_partitions(list(range(len(lengths)))) if allowed(c))
    assert cost(lengths, buckets, call_cost) == best


def test_what_is_alike_goes_together() -> None:
    assert partition([100, 900, 101, 905, 99], call_cost=50, limit=10**6) == [[0, 2, 4], [1, 3]]
    assert partition([5, 6, 7], call_cost=1000, limit=10**6) == [[0, 1, 2]]
    assert partition([], call_cost=1, limit=1) == []
