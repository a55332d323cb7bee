# SPDX-License-Identifier: Apache-2.0
"""Which replica gets a prompt."""

from __future__ import annotations

from sgl_runtime.engine.router import RoundRobin, ShortestQueue, load_router


def test_round_robin_takes_turns_whatever_the_queues() -> None:
    router = load_router("round_robin")
    assert isinstance(router, RoundRobin)
    assert [router.choose([9, 0, 0]) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_shortest_queue_takes_the_shortest_and_turns_among_equals() -> None:
    router = load_router("shortest_queue")
    assert isinstance(router, ShortestQueue)
    assert [router.choose([3, 1, 2]) for _ in range(3)] == [1, 1, 1]
    assert sorted(router.choose([0, 5, 0, 0]) for _ in range(3)) == [0, 2, 3]
