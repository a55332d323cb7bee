# SPDX-License-Identifier: Apache-2.0
"""The order of the waiting line, and that nobody waits in it for ever."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from serving import GREEDY, Replica

from sgl_runtime.cache.prefix import NoCache, Node
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import Sampling
from sgl_runtime.scheduler.bias import Bias
from sgl_runtime.scheduler.policy import PATIENCE, first_come, in_turn, load_policy, overdue_at
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.stop import Stop


def waiting(
    name: str, prompt: list[int], *, limit: int = 10, overdue: int = 1_000_000, lot: float = 0.0
) -> Request:
    sampling = Sampling(max_new_tokens=limit)
    stop = Stop(sampling, limit=limit, eos=frozenset(), vocabulary=None)
    bias, tokens = Bias(sampling, stop.tokens), np.array(prompt, np.int32)
    return Request(
        rid=name, prompt=tokens, sampling=sampling, stop=stop, bias=bias, top=-1, scores=None,
        arrival=ord(name[0]), came_at=0.0, overdue_at=overdue, lot=lot,
    )  # fmt: skip


def cache_of(*prefixes: list[int]) -> RadixCache:
    cache = RadixCache()
    for prefix in prefixes:
        cache.insert(np.array(prefix, np.int32), np.arange(len(prefix), dtype=np.int32))
    return cache


def order(policy: str, line: list[Request], cache: RadixCache | NoCache) -> str:
    return "".join(request.rid for request in load_policy(policy, cache)(line, cache))


def test_lpm_takes_the_longest_cached_prefix_first_and_keeps_the_order_of_equals() -> None:
    cache = cache_of([1, 2, 3, 4, 5], [1, 2, 9])
    line = [
        waiting("a", [7, 7]),
        waiting("b", [1, 2, 9, 9]),
        waiting("c", [1, 2, 3, 4, 5, 6]),
        waiting("d", [8, 8]),
    ]
    assert order("lpm", line, cache) == "cbad"


def test_lpm_counts_what_may_be_matched() -> None:
    """The last prompt token is never taken from the cache: both have three tokens cached, not four and
    three."""
    cache = cache_of([1, 2, 3, 4])
    assert order("lpm", [waiting("a", [1, 2, 3, 9, 9]), waiting("b", [1, 2, 3, 4])], cache) == "ab"


def test_dfs_weight_visits_the_heaviest_subtree_first() -> None:
    cache = cache_of([1, 2, 3], [1, 2, 4], [5, 6], [5, 7])
    prompts = {"a": [1, 2, 3, 0], "b": [5, 6, 0], "c": [1, 2, 4, 0], "d": [5, 7, 0], "e": [5, 6, 1], "f": [9]}
    line = [waiting(name, prompt) for name, prompt in prompts.items()]
    assert order("dfs-weight", line, cache) == "be" + "d" + "a" + "c" + "f"


def test_dfs_weight_agrees_with_a_recursive_walk() -> None:
    rng = np.random.default_rng(3)
    prefixes = [rng.integers(0, 3, 6).tolist() for _ in range(12)]
    cache = cache_of(*prefixes)
    line = [waiting(f"{i:02}", [*prefixes[i % 12][: rng.integers(1, 6)], 9, 9]) for i in range(40)]
    at = {request.rid: cache.match(request.prompt[:-1]).node for request in line}
    weights = Counter(node for request in line for node in at[request.rid].path())

    def walk(node: Node) -> list[str]:
        here = [request.rid for request in line if at[request.rid] is node]
        children = sorted(node.children.values(), key=lambda child: (-weights[child], child.serial))
        return [rid for child in children for rid in walk(child)] + here

    assert [r.rid for r in load_policy("dfs-weight", cache)(line, cache)] == walk(cache._root)


def test_lof_takes_the_longest_output_first_and_random_goes_by_lot() -> None:
    line = [
        waiting("a", [1], limit=5, lot=0.9),
        waiting("b", [1], limit=9, lot=0.5),
        waiting("c", [1], limit=5, lot=0.1),
    ]
    assert order("lof", line, RadixCache()) == "bac"
    assert order("random", line, RadixCache()) == "cba"
    assert order("fcfs", line, RadixCache()) == "abc"


def test_random_is_seeded() -> None:
    def served(seed: int) -> list[str]:
        replica = Replica(schedule_policy="random", seed=seed, rows=1, slots=64)
        for index in range(12):
            replica.add([1 + index % 5, 2, 3], GREEDY, rid=f"r{index}")
        replica.finish()
        return replica.order

    assert served(1) == served(1) != served(2)


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight"])
def test_without_a_prefix_cache_they_are_first_come_first_served(policy: str) -> None:
    assert load_policy(policy, NoCache()) is first_come


def test_an_overdue_request_goes_first() -> None:
    cache = cache_of([1, 2, 3])
    late, good = waiting("a", [7, 7], overdue=overdue_at(5, 0)), waiting("b", [1, 2, 3, 4])
    policy = load_policy("lpm", cache)
    assert [r.rid for r in in_turn([late, good], cache, policy, admitted=5 + PATIENCE - 1)] == ["b", "a"]
    assert [r.rid for r in in_turn([late, good], cache, policy, admitted=5 + PATIENCE)] == ["a", "b"]


@pytest.mark.parametrize("policy", ["lpm", "dfs-weight", "lof", "random"])
def test_a_stream_of_better_requests_does_not_starve_one(policy: str) -> None:
    """Two rows, an endless stream of requests that the policy prefers, and one that it never would choose."""
    replica = Replica(schedule_policy=policy, rows=2, slots=96, context_length=64)
    shared, tokens = list(range(1, 10)), Sampling(max_new_tokens=4, temperature=0.0, ignore_eos=True)
    replica.add([*shared, 1], tokens)
    replica.finish()
    replica.scheduler._lots.random = lambda: 0.5  # type: ignore[method-assign]
    replica.add([11, 11, 11], Sampling(max_new_tokens=2, temperature=0.0), rid="unloved")
    replica.scheduler._lots.random = lambda: 0.1  # type: ignore[method-assign]
    for index in range(4 * PATIENCE):
        for last in range(4):
            replica.add([*shared, 1 + index % 9, last], tokens)
        for _ in range(5):
            replica.step()
        if replica.answers["unloved"].finish is not None:
            break
    overtook = len([rid for rid in replica.order if rid != "unloved"])
    assert replica.answers["unloved"].finish is not None, "starved"
    assert PATIENCE // 2 < overtook <= PATIENCE + 8, "neither at once nor for ever"
