# SPDX-License-Identifier: Apache-2.0
"""`RadixCache` against a model without a tree: a dictionary from every cached prefix to its slot."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sgl_runtime.cache.prefix import Match, NoCache, Node
from sgl_runtime.cache.radix import RadixCache, common_prefix
from sgl_runtime.messages import I32

Tokens = tuple[int, ...]

CI = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=150,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
)
HUNT = settings(CI, max_examples=3000, phases=[Phase.generate], print_blob=False)  # ends with its first find


def ints(tokens: Tokens | list[int] | range) -> I32:
    return np.array(tokens, np.int32)


@dataclass
class Model:
    """What a prefix cache is, prefix by prefix, in time that grows with the square of everything."""

    slots: dict[Tokens, int] = field(default_factory=dict)
    used: dict[Tokens, int] = field(default_factory=dict)
    pins: list[Tokens] = field(default_factory=list)
    clock: int = 0

    def match(self, tokens: Tokens) -> int:
        return next(
            length for length in range(len(tokens), -1, -1) if not length or tokens[:length] in self.slots
        )

    def touch(self, tokens: Tokens) -> None:
        self.clock += 1
        for length in range(1, len(tokens) + 1):
            self.used[tokens[:length]] = self.clock

    def pinned(self, prefix: Tokens) -> bool:
        return any(pin[: len(prefix)] == prefix for pin in self.pins)

    def evictable(self) -> int:
        return sum(not self.pinned(prefix) for prefix in self.slots)

    def leaves(self) -> set[Tokens]:
        return {p for p in self.slots if not any(len(q) == len(p) + 1 and q[:-1] == p for q in self.slots)}


class Caching(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cache = RadixCache()
        self.model = Model()
        self.pins: list[tuple[Node, Tokens]] = []
        self.next_slot = 0

    tokens = st.lists(st.integers(0, 2), max_size=9).map(tuple)

    @rule(tokens=tokens)
    def match(self, tokens: Tokens) -> None:
        match = self.cache.match(ints(tokens))
        assert match.length == self.model.match(tokens)

    @rule(tokens=tokens)
    def pin(self, tokens: Tokens) -> None:
        match = self.cache.match(ints(tokens))
        node = self.cache.pin(match)
        prefix = tokens[: match.length]
        assert node.prefix_slots().tolist() == [self.model.slots[prefix[: i + 1]] for i in range(len(prefix))]
        self.model.touch(prefix)
        self.model.pins.append(prefix)
        self.pins.append((node, prefix))

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 99))
    def unpin(self, which: int) -> None:
        node, prefix = self.pins.pop(which % len(self.pins))
        self.cache.unpin(node)
        self.model.pins.remove(prefix)

    @rule(tokens=tokens)
    def insert(self, tokens: Tokens) -> None:
        slots = list(range(self.next_slot, self.next_slot + len(tokens)))
        self.next_slot += len(tokens)
        given = ints(tokens), ints(slots)
        inserted = self.cache.insert(*given)
        assert inserted.present == self.model.match(tokens)
        assert inserted.match.length == len(tokens)
        for array in given:
            array[:] = -1  # the cache keeps copies
        for length in range(inserted.present + 1, len(tokens) + 1):
            self.model.slots[tokens[:length]] = slots[length - 1]
        self.model.touch(tokens)
        node = self.cache.pin(inserted.match)
        assert node.prefix_slots().tolist() == [self.model.slots[tokens[: i + 1]] for i in range(len(tokens))]
        self.cache.unpin(node)
        self.model.touch(tokens)

    @rule(count=st.integers(0, 12))
    def evict(self, count: int) -> None:
        expected = min(count, self.model.evictable())
        evicted = self.cache.evict(count).tolist()
        assert len(evicted) == len(set(evicted)) == expected
        prefix_of = {slot: prefix for prefix, slot in self.model.slots.items()}
        gone = [prefix_of[slot] for slot in evicted]
        assert not any(self.model.pinned(prefix) for prefix in gone), "a pinned prefix was evicted"
        for prefix in gone:
            del self.model.slots[prefix]
        assert all(prefix[:-1] in self.model.slots for prefix in self.model.slots if len(prefix) > 1)
        left = [self.model.used[leaf] for leaf in self.model.leaves() if not self.model.pinned(leaf)]
        assert not gone or not left or max(self.model.used[prefix] for prefix in gone) <= min(left), (
            "not the oldest"
        )

    @precondition(lambda self: self.pins)
    @rule(which=st.integers(0, 99))
    def forget(self, which: int) -> None:
        node, prefix = self.pins.pop(which % len(self.pins))
        self.model.pins.remove(prefix)
        freed = self.cache.forget(node).tolist()
        expected: list[int] = []
        for length in range(len(prefix), 0, -1):
            tail = prefix[:length]
            if self.model.pinned(tail) or tail not in self.model.leaves():
                break
            expected.append(self.model.slots.pop(tail))
        assert sorted(freed) == sorted(expected)

    @invariant()
    def counts(self) -> None:
        assert self.cache.size == len(self.model.slots)
        assert self.cache.evictable == self.model.evictable()
        for node, prefix in self.pins:
            spelled = [token for each in [*node.path()][::-1] for token in each.tokens.tolist()]
            assert tuple(spelled) == prefix, "a pin covers other tokens than it did"

    def teardown(self) -> None:
        for node, _ in self.pins:
            self.cache.unpin(node)
        assert sorted(self.cache.evict(1 << 30).tolist()) == sorted(self.model.slots.values())
        assert self.cache.size == self.cache.evictable == 0


def test_the_tree_is_a_dictionary_of_prefixes() -> None:
    run_state_machine_as_test(Caching, settings=CI)


@pytest.mark.parametrize("bug", ["pins are not copied", "pins do not count", "oldest first is newest first"])
def test_the_model_catches(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deliberate bugs: a split whose upper half is not pinned; pins that protect nothing; eviction in the
    wrong order."""
    if bug == "pins are not copied":
        ending = RadixCache._ending

        def split(self: RadixCache, match: Match) -> Node:
            node = ending(self, match)
            if node is not match.node:
                node.pins = 0
            return node

        monkeypatch.setattr(RadixCache, "_ending", split)
    elif bug == "pins do not count":
        monkeypatch.setattr(RadixCache, "pin", lambda self, match: self._ending(match))
        monkeypatch.setattr(RadixCache, "unpin", lambda self, node: None)
    else:
        drop = RadixCache._drop_tail

        def newest(self: RadixCache, leaf: Node, count: int) -> I32:
            entries = [
                node for _, _, node in self._heap if node.parent and not node.children and not node.pins
            ]
            return drop(self, max([leaf, *entries], key=lambda node: node.used), count)

        monkeypatch.setattr(RadixCache, "_drop_tail", newest)
    with pytest.raises((AssertionError, IndexError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(Caching, settings=HUNT)


@settings(derandomize=True, database=None, max_examples=200)
@given(*[st.lists(st.integers(0, 1), min_size=1, max_size=12)] * 2)
def test_common_prefix(a: list[int], b: list[int]) -> None:
    expected = 0
    while expected < min(len(a), len(b)) and a[expected] == b[expected]:
        expected += 1
    assert common_prefix(ints(a), ints(b)) == expected


def test_matching_does_not_make_younger_and_pinning_does() -> None:
    cache = RadixCache()
    cache.insert(ints([1, 2]), ints([0, 1]))
    cache.insert(ints([3, 4]), ints([2, 3]))
    cache.match(ints([1, 2]))
    assert cache.evict(1).tolist() == [1], "the older one goes, its end first"
    cache.unpin(cache.pin(cache.match(ints([1]))))
    assert sorted(cache.evict(2).tolist()) == [2, 3]


def test_eviction_takes_no_more_than_it_must() -> None:
    cache = RadixCache()
    cache.insert(ints(range(100)), ints(range(100)))
    assert sorted(cache.evict(30).tolist()) == list(range(70, 100))
    assert cache.match(ints(range(100))).length == 70
    assert (cache.size, cache.evictable) == (70, 70)


def test_eviction_does_not_walk_the_tree() -> None:
    """The work of an eviction, counted in function calls, is the same in a tree of twenty times the size."""

    def calls(leaves: int) -> int:
        cache = RadixCache()
        for leaf in range(leaves):
            cache.insert(ints([leaf, 1, 2, 3]), ints(range(4 * leaf, 4 * leaf + 4)))
        count = 0

        def profile(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(profile)
        try:
            cache.evict(40)
        finally:
            sys.setprofile(None)
        return count

    assert calls(200) == calls(4_000) < 500


def test_no_cache_keeps_nothing() -> None:
    cache = NoCache()
    inserted = cache.insert(ints([1, 2, 3]), ints([7, 8, 9]))
    assert (inserted.match.length, inserted.present) == (0, 0)
    pin = cache.pin(cache.match(ints([1, 2, 3])))
    assert pin.prefix_slots().tolist() == []
    cache.unpin(pin)
    assert cache.forget(cache.pin(inserted.match)).tolist() == []
    assert cache.evict(5).tolist() == []
    assert (cache.size, cache.evictable, cache.remembers) == (0, 0, False)
