# SPDX-License-Identifier: Apache-2.0
"""`Spread`: below one node of a trie, the tokens that consist of characters of one class, and where the
others leave it. Where a state reads the class over and over, that is known once for all grammars.

It is what `Run` is from the root, for classes and nodes with little below.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from sgl_constrain.trie import Nodes
from sgl_constrain.utf8 import NO_HEAD, Heads

_MOST_NODES = 1 << 10  # below which a spread is made,
_FEW_NODES = 1 << 6  # and up to which already when it is asked for the first time
_MOST_HELD = 1 << 18  # numbers in all,
_HELD_ON = 16  # where what else is held counts as so many


class Deep(NamedTuple):
    """Numbers, and how many characters of the class stand before each: in this order."""

    numbers: list[int]
    depths: list[int]

    def up_to(self, depth: int) -> list[int]:
        if not self.depths or self.depths[-1] <= depth:
            return self.numbers
        return self.numbers[: bisect_right(self.depths, depth)]


class Spread(NamedTuple):
    """tokens: up to a last character that may be incomplete. after: by any byte that begins no character of
    the class and comes after 0..n of them, as a set, the tokens and the inner nodes that it leads to; begins:
    all these bytes.
    """

    tokens: Deep
    after: dict[int, tuple[Deep, Deep]]
    begins: int


class Spreads:
    """Of the classes of one table, below nodes of any trie; remembered. Thread-safe: what is found twice is
    equal.
    """

    def __init__(self, heads: Heads) -> None:
        self._heads = heads
        self._known: dict[tuple[Nodes, int, int], Spread] = {}
        self._asked: dict[tuple[Nodes, int, int], bool] = {}  # for those not known; may it be made?
        self._held = 0

    def below(self, trie: Nodes, first: int, count: int, head: int) -> Spread | None:
        """Below the node of which first..first + count are the children; None when too much is there, or so
        much that it must be asked for twice.
        """
        key = trie, first, head
        known = self._known.get(key)
        if known is None:
            asked = self._asked.get(key)
            if asked is None:
                size = trie.size(first, count)
                asked = size <= _FEW_NODES
                self._asked[key] = size <= _MOST_NODES
            if asked:
                known = self.make(trie, first, count, head)
        return known

    def make(self, trie: Nodes, first: int, count: int, head: int) -> Spread:
        """The same, however much is there."""
        found = self._find(trie, first, count, head)
        self._held += len(found.tokens.numbers) + _HELD_ON * (1 + len(found.after))
        if self._held > _MOST_HELD:
            self._known, self._asked, self._held = {}, {}, 0
        self._known[trie, first, head] = found
        return found

    def _find(self, trie: Nodes, first: int, count: int, head: int) -> Spread:
        edges = self._heads.edges
        inside: list[tuple[int, int]] = []  # (depth, token)
        after: dict[int, tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
        pending = [(first, count, head, 0)]
        while pending:
            first, count, at, depth = pending.pop()
            for node in range(first, first + count):
                bit = 1 << trie.labels[node]
                token, children = int(trie.token_at[node]), int(trie.child_count[node])
                following = next((edge.head for edge in edges[at] if edge.mask & bit), None)
                if following is not None:
                    here = depth + (at == head)
                    inside.append((here, token))
                    if children:
                        pending.append((int(trie.first_child[node]), children, following or head, here))
                elif at == head:
                    ended, inner = after.setdefault(bit, ([], []))
                    ended.append((depth, token))
                    if children:
                        inner.append((depth, node))
        found = {bit: (_deep(ended), _deep(inner)) for bit, (ended, inner) in after.items()}
        return Spread(_deep(inside), found, sum(found))


def _deep(pairs: Iterable[tuple[int, int]]) -> Deep:
    ordered = sorted(pairs)
    return Deep([number for _, number in ordered], [depth for depth, _ in ordered])


assert NO_HEAD == 0  # `following or head`
