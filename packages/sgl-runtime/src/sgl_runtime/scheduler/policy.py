# SPDX-License-Identifier: Apache-2.0
"""The order of the waiting line. A policy is a function from a line and a prefix cache to a new list.

`lpm` and `dfs-weight` keep requests that share a prefix together, so that it is computed once and stays
cached (RadixAttention, Zheng et al. 2023, arXiv:2312.07104). Without a prefix cache they are `fcfs`.

All but `fcfs` let younger requests pass, so a request could wait for ever behind a stream of better matching
ones. It does not: once PATIENCE requests have been admitted out of turn before it, it goes first (`in_turn`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeAlias

from sgl_runtime.cache.prefix import Match, PrefixCache
from sgl_runtime.scheduler.request import Request

Policy: TypeAlias = Callable[[Sequence[Request], PrefixCache], list[Request]]

PATIENCE = 64
_AFTER = (1, 0)  # greater than the key of any node
# Oldest requests whose prefixes are looked up: for all of a long line that would take milliseconds.
_WINDOW = 128


def load_policy(name: str, cache: PrefixCache) -> Policy:
    """`name`: a value of ServeConfig.schedule_policy."""
    if name in ("lpm", "dfs-weight") and not cache.remembers:
        return first_come
    return _POLICIES[name]


def overdue_at(admitted: int, waiting: int) -> int:
    """When a newcomer, behind `waiting` others and `admitted` admissions, will have waited too long.

    First come, first served would admit the `waiting` before it and then itself. Every admission beyond that
    was of a request that overtook it; there may be PATIENCE of them.
    """
    return admitted + waiting + PATIENCE


def in_turn(line: Sequence[Request], cache: PrefixCache, policy: Policy, *, admitted: int) -> list[Request]:
    """The line, given in order of arrival, in the order of the policy; but overdue requests come first."""
    overdue = [request for request in line if request.overdue_at <= admitted]
    if not overdue:
        return policy(line, cache)
    return overdue + policy([request for request in line if request.overdue_at > admitted], cache)


def first_come(line: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """First come, first served."""
    return list(line)


def longest_prefix(line: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """Those of which most is cached first, in tokens; others in order of arrival."""
    matches = _matches(line, cache)
    best = sorted(range(len(matches)), key=lambda index: -matches[index].length)
    return [line[index] for index in best] + list(line[len(matches) :])


def heaviest_subtree(line: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """Depth first through the tree of cached prefixes, into the child with most requests below it first.

    Requests that end at a node come after those that end below it, so those that share nothing come last.
    """
    matches = _matches(line, cache)
    paths = [list(match.node.path())[::-1] for match in matches]
    weights = Counter(node.serial for path in paths for node in path)
    keys = [[*((-weights[node.serial], node.serial) for node in path), _AFTER] for path in paths]
    best = sorted(range(len(matches)), key=lambda index: keys[index])
    return [line[index] for index in best] + list(line[len(matches) :])


def longest_output(line: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """Those that may generate most first; they will hold the last rows anyway."""
    return sorted(line, key=lambda request: -request.stop.limit)


def random_order(line: Sequence[Request], cache: PrefixCache) -> list[Request]:
    """By lots, drawn when requests arrive: the order does not depend on how often it is asked for."""
    return sorted(line, key=lambda request: request.lot)


def _matches(line: Sequence[Request], cache: PrefixCache) -> list[Match]:
    return [cache.match(request.tokens()[: request.matchable()]) for request in line[:_WINDOW]]


_POLICIES: dict[str, Policy] = {
    "fcfs": first_come,
    "lpm": longest_prefix,
    "dfs-weight": heaviest_subtree,
    "lof": longest_output,
    "random": random_order,
}
