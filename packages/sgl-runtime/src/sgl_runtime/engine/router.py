# SPDX-License-Identifier: Apache-2.0
"""Which replica computes a prompt. The api process knows every request in flight, so the queues it compares
are exact.

All samples of a prompt go to one replica: they share its prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol


class Router(Protocol):
    def choose(self, in_flight: Sequence[int]) -> int:
        """Index of a replica, given how many unfinished samples each one has."""
        ...


class RoundRobin:
    """Each replica in its turn."""

    def __init__(self) -> None:
        self._next = 0

    def choose(self, in_flight: Sequence[int]) -> int:
        chosen = self._next % len(in_flight)
        self._next = chosen + 1
        return chosen


class ShortestQueue:
    """The replica with the fewest unfinished samples; among equals, each in its turn."""

    def __init__(self) -> None:
        self._turns = RoundRobin()

    def choose(self, in_flight: Sequence[int]) -> int:
        fewest = min(in_flight)
        shortest = [replica for replica, count in enumerate(in_flight) if count == fewest]
        return shortest[self._turns.choose(shortest)]


def load_router(name: Literal["round_robin", "shortest_queue"]) -> Router:
    return RoundRobin() if name == "round_robin" else ShortestQueue()
