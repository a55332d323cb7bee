# SPDX-License-Identifier: Apache-2.0
"""`RadixCache`: the prefixes of everything computed lately, as a radix tree whose edges are int32 arrays.

    root ── "you are helpful" ─┬─ "hello"             a node holds the tokens of its edge, one slot for each;
                               └─ "what is" ─ "2+2"   its children differ in their first token, their key

The tree and its eviction (leaves first, least recently used first) follow RadixAttention, Zheng et al. 2023,
arXiv:2312.07104. Sequences are compared by numpy, one comparison per node. Leaves that may go wait in a heap;
an entry is checked when it is popped instead of being moved on every use, so eviction costs O(log n) per node
and no walk.
"""

from __future__ import annotations

import heapq

import numpy as np

from sgl_runtime.cache.prefix import Inserted, Match, Node
from sgl_runtime.messages import I32

_EMPTY: I32 = np.empty(0, np.int32)


def common_prefix(a: I32, b: I32) -> int:
    """Length of the longest common prefix of two non-empty arrays."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    first = int(differs.argmax())
    return first if differs[first] else length


class RadixCache:
    """An LRU `PrefixCache`.

    Invariants: a pin on a node counts on all its ancestors, so an unpinned node has only unpinned nodes below
    it and `evictable` is the sum over unpinned nodes. Every unpinned leaf has exactly one entry in the heap,
    whose time is not later than its `used`.
    """

    remembers = True

    def __init__(self) -> None:
        self.size = 0
        self.evictable = 0
        self._clock = 0
        self._serial = 0
        self._root = Node(_EMPTY, _EMPTY, None, 0, 0)
        self._heap: list[tuple[int, int, Node]] = []  # (used when queued, serial, node)

    def match(self, tokens: I32) -> Match:
        node, length = self._root, 0
        while length < len(tokens):
            child = node.children.get(int(tokens[length]))
            if child is None:
                break
            inside = common_prefix(child.tokens, tokens[length:])
            length += inside
            node = child
            if inside < len(child.tokens):
                return Match(length, child, inside)
        return Match(length, node, len(node.tokens))

    def pin(self, match: Match) -> Node:
        pinned = self._ending(match)
        self._clock += 1
        for node in pinned.path():
            if node.pins == 0:
                self.evictable -= len(node.tokens)
            node.pins += 1
            node.used = self._clock
        return pinned

    def unpin(self, node: Node) -> None:
        for each in node.path():
            assert each.pins > 0, "unpinned more often than pinned"
            each.pins -= 1
            if each.pins == 0:
                self.evictable += len(each.tokens)
                self._queue_if_leaf(each)

    def insert(self, tokens: I32, slots: I32) -> Inserted:
        assert len(tokens) == len(slots), "a slot for every token"
        match = self.match(tokens)
        node, present = self._ending(match), match.length
        self._clock += 1
        for each in node.path():
            each.used = self._clock
        if present < len(tokens):
            node = self._attach(node, tokens[present:].copy(), slots[present:].copy())
        return Inserted(Match(len(tokens), node, len(node.tokens)), present)

    def evict(self, count: int) -> I32:
        runs: list[I32] = []
        missing = min(count, self.evictable)
        while missing > 0:
            used, _, node = heapq.heappop(self._heap)
            node.queued = False
            if node.parent is None or node.children or node.pins:
                continue  # gone, or no longer an unpinned leaf: queued again when it becomes one
            if node.used > used:
                self._queue_if_leaf(node)
                continue
            run = self._drop_tail(node, missing)
            runs.append(run)
            missing -= len(run)
        return np.concatenate(runs) if runs else _EMPTY.copy()

    def forget(self, node: Node) -> I32:
        self.unpin(node)
        runs: list[I32] = []
        while node.parent is not None and not node.children and not node.pins:
            parent = node.parent
            runs.append(self._drop_tail(node, len(node.tokens)))
            node = parent
        return np.concatenate(runs) if runs else _EMPTY.copy()

    def _ending(self, match: Match) -> Node:
        """The node that ends exactly where the match does; made by splitting if there is none.

        The lower half keeps its identity: whoever has pinned it has pinned the same tokens as before, now
        through one more ancestor, which therefore starts with the same number of pins.
        """
        lower, inside = match.node, match.inside
        if inside == len(lower.tokens):
            return lower
        assert lower.parent is not None and 0 < inside < len(lower.tokens), "the match is out of date"
        self._serial += 1
        upper = Node(lower.tokens[:inside], lower.slots[:inside], lower.parent, self._serial, lower.used)
        upper.pins = lower.pins
        lower.parent.children[int(upper.tokens[0])] = upper
        lower.tokens, lower.slots = lower.tokens[inside:], lower.slots[inside:]
        lower.parent = upper
        upper.children[int(lower.tokens[0])] = lower
        return upper

    def _attach(self, parent: Node, tokens: I32, slots: I32) -> Node:
        self._serial += 1
        leaf = Node(tokens, slots, parent, self._serial, self._clock)
        parent.children[int(tokens[0])] = leaf
        self.size += len(tokens)
        self.evictable += len(tokens)
        self._queue_if_leaf(leaf)
        return leaf

    def _drop_tail(self, leaf: Node, count: int) -> I32:
        """Remove up to `count` tokens from the end of an unpinned leaf; returns their slots."""
        count = min(count, len(leaf.tokens))
        keep = len(leaf.tokens) - count
        slots = leaf.slots[keep:]
        self.size -= count
        self.evictable -= count
        if keep:
            leaf.tokens, leaf.slots = leaf.tokens[:keep], leaf.slots[:keep]
            self._queue_if_leaf(leaf)
        else:
            parent = leaf.parent
            assert parent is not None, "the root holds no token"
            del parent.children[int(leaf.tokens[0])]
            leaf.parent = None
            self._queue_if_leaf(parent)
        return slots

    def _queue_if_leaf(self, node: Node) -> None:
        if node.queued or node.pins or node.children or node.parent is None:
            return
        node.queued = True
        heapq.heappush(self._heap, (node.used, node.serial, node))
