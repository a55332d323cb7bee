# SPDX-License-Identifier: Apache-2.0
"""What the scheduler asks of a prefix cache, and the cache that remembers nothing.

A prefix cache maps token sequences to the KV slots in which they are already computed, and owns those slots.
A request that reads a cached prefix pins it; what is pinned is never evicted. Caches know neither the pool of
free slots nor requests: slots come in by `insert` and go out by `evict`, and the caller accounts for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np

from sgl_runtime.messages import I32

_EMPTY: I32 = np.empty(0, np.int32)


class Node:
    """A run of cached tokens and their slots; the path from the root spells a whole prefix.

    For the users of a cache a node is a pin: something to hold, to read `prefix_slots` from and to give back.
    """

    __slots__ = ("children", "parent", "pins", "queued", "serial", "slots", "tokens", "used")

    def __init__(self, tokens: I32, slots: I32, parent: Node | None, serial: int, used: int) -> None:
        self.tokens = tokens
        self.slots = slots
        self.parent = parent  # None: the root, or a node that was evicted
        self.serial = serial  # distinct among all nodes of a cache
        self.used = used  # logical time of the last use; never later than the parent's
        self.children: dict[int, Node] = {}  # by first token
        self.pins = 0  # users of this node or of anything below it
        self.queued = False  # there is an entry for this node in the queue of eviction

    def path(self) -> Iterator[Node]:
        """This node and its ancestors, without the root."""
        node = self
        while node.parent is not None:
            yield node
            node = node.parent

    def prefix_slots(self) -> I32:
        """Slots of the whole prefix that ends with this node, in order, in a fresh array."""
        runs = [node.slots for node in self.path()]
        return np.concatenate(runs[::-1]) if runs else _EMPTY.copy()


class Match(NamedTuple):
    """How far a token sequence is cached. Valid until the cache is next changed."""

    length: int  # tokens found
    node: Node  # where the last of them is; the root if there is none
    inside: int  # how many tokens of that node are part of the match


class Inserted(NamedTuple):
    match: Match  # of the inserted tokens, afterwards: length 0 from a cache that keeps nothing
    present: int  # tokens[:present] had been cached before, in other slots than the caller's or in the same


class PrefixCache(Protocol):
    """Verbs over sequences of token ids; `size` and `evictable` are counters, in tokens."""

    size: int  # slots owned by the cache
    evictable: int  # those of them that are not pinned

    @property
    def remembers(self) -> bool:
        """False if no match is ever longer than zero."""
        ...

    def match(self, tokens: I32) -> Match:
        """The longest cached prefix of `tokens`. Not a use: what is matched does not become younger."""
        ...

    def pin(self, match: Match) -> Node:
        """Protect a match from eviction, and count this as its latest use. Ends with `unpin` or `forget`."""
        ...

    def unpin(self, node: Node) -> None: ...

    def insert(self, tokens: I32, slots: I32) -> Inserted:
        """Remember that tokens[i] is computed in slots[i], behind tokens[:i].

        slots[present : match.length] belong to the cache from now on; all others stay the caller's. Both
        arrays are copied.
        """
        ...

    def evict(self, count: int) -> I32:
        """Drop min(count, evictable) tokens, least recently used first and the end of a prefix before its
        start.

        Returns their slots, which are the caller's.
        """
        ...

    def forget(self, node: Node) -> I32:
        """Unpin, and drop as much of the end of this prefix as nobody else has pinned or continues.

        For what must not be found again. Returns the slots, which are the caller's.
        """
        ...


class NoCache:
    """Shares nothing: every request keeps its own slots until it ends."""

    remembers = False

    def __init__(self) -> None:
        self.size = 0
        self.evictable = 0
        self._nothing = Match(0, Node(_EMPTY, _EMPTY, None, 0, 0), 0)

    def match(self, tokens: I32) -> Match:
        return self._nothing

    def pin(self, match: Match) -> Node:
        return match.node

    def unpin(self, node: Node) -> None:
        pass

    def insert(self, tokens: I32, slots: I32) -> Inserted:
        return Inserted(self._nothing, 0)

    def evict(self, count: int) -> I32:
        return _EMPTY

    def forget(self, node: Node) -> I32:
        return _EMPTY
