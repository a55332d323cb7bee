# SPDX-License-Identifier: Apache-2.0
"""The tokens of a vocabulary as one trie in flat arrays, level by level: level d holds the prefixes of d + 1
bytes.

Nodes are numbered in level order, so the children of a node are neighbours and a level is a slice; a walk
touches arrays, not objects. Tokens with equal bytes share a node: the first is walked, the others (`alias`)
copy its bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Bits = NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One slice of the trie. `parent` counts from the start of the level above; `token_node` from
    this one's.
    """

    start: int
    stop: int
    byte: Ints  # [nodes], the byte that leads here
    parent: Ints  # [nodes]
    token_node: Ints  # [tokens that end on this level]
    token: Ints  # [the same]


class Nodes:
    """The nodes of a trie: by level, and by number. What it says never changes."""

    def __init__(self, levels: list[Level], alias: Ints, aliased: Ints) -> None:
        self.levels = levels
        self.alias = alias  # tokens with the bytes of another one, and
        self.aliased = aliased  # those others, which the trie has
        self._child_sets: dict[int, int] = {}  # those that were asked for, by the first child
        self.nodes = levels[-1].stop if levels else 0
        self.depth = len(levels)  # bytes of the longest token
        self.byte = _joined([level.byte for level in levels])
        self.labels = self.byte.astype(np.uint8).tobytes()  # the same, to be searched
        self.token_at = np.full(self.nodes, -1, dtype=np.int32)
        self.characters = np.empty(self.nodes, dtype=np.int32)  # how many begin on the way to a node
        children = np.zeros(self.nodes + 1, dtype=np.int32)
        above = np.zeros(1, dtype=np.int32)
        for level in levels:
            here = slice(level.start, level.stop)
            self.token_at[level.token_node + level.start] = level.token
            self.characters[here] = above[level.parent] + (level.byte & 0xC0 != 0x80)
            above = self.characters[here]
        for level, below in pairwise(levels):
            children[level.start : level.stop] = np.bincount(below.parent, minlength=level.stop - level.start)
        self.child_count = children[:-1].copy()
        roots = levels[0].stop if levels else 0
        self.first_child = (np.cumsum(children) - children + roots)[:-1].astype(np.int32)

    def below(self, root: int) -> Nodes:
        """What follows the bytes of a node of the first level in the tokens that begin with them; the aliases
        of all tokens.
        """
        levels: list[Level] = []
        inside = np.zeros(self.levels[0].stop, dtype=np.bool_)
        inside[root] = True
        stop = 0
        for level in self.levels[1:]:
            number = np.cumsum(inside, dtype=np.int32) - 1  # of the level above, in the new trie
            here = inside[level.parent]
            start, stop = stop, stop + int(np.count_nonzero(here))
            if start == stop:
                break
            token = np.flatnonzero(here[level.token_node])
            new = np.cumsum(here, dtype=np.int32) - 1
            levels.append(
                Level(
                    start,
                    stop,
                    level.byte[here],
                    number[level.parent[here]],
                    new[level.token_node[token]],
                    level.token[token],
                )
            )
            inside = here
        return Nodes(levels, self.alias, self.aliased)

    @property
    def nbytes(self) -> int:
        return self.nodes * (7 * 4 + 1)

    def child_set(self, first: int, count: int) -> int:
        """The bytes that lead to first..first + count - 1, the children of one node, as a set."""
        known = self._child_sets.get(first)
        if known is None:
            bytes = self.byte[first : first + count].tolist()
            known = self._child_sets[first] = sum([1 << byte for byte in bytes])
        return known

    def size(self, first: int, count: int) -> int:
        """How many nodes first..first + count, neighbours on one level, are with all that is below them."""
        size = 0
        while count:
            size += count
            last = first + count - 1
            first, end = int(self.first_child[first]), int(self.first_child[last] + self.child_count[last])
            count = end - first
        return size

    def without(self, tokens: Bools) -> Nodes:
        """The trie of the other tokens. tokens: [vocabulary size] or longer, true for those to leave out."""
        token_at = self.token_at
        ends = token_at >= 0
        ends &= ~tokens[token_at]
        needed = ends.copy()
        for above, level in zip(self.levels[-2::-1], self.levels[:0:-1], strict=True):
            needed[above.start + level.parent[needed[level.start : level.stop]]] = True
        number = np.cumsum(needed, dtype=np.int32) - 1
        levels: list[Level] = []
        stop = above_start = 0
        for level in self.levels:
            here = needed[level.start : level.stop]
            start, stop = stop, stop + int(np.count_nonzero(here))
            if start == stop:
                break
            parent = level.parent[here]
            if levels:
                parent = number[above_start + parent] - np.int32(levels[-1].start)
            token = np.flatnonzero(ends[level.start : level.stop]) + level.start
            levels.append(
                Level(start, stop, level.byte[here], parent, number[token] - np.int32(start), token_at[token])
            )
            above_start = level.start
        return Nodes(levels, self.alias, self.aliased)


class Trie(Nodes):
    """Built once per vocabulary, in time proportional to the bytes of all tokens. Empty tokens are
    left out.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        ids = sorted((i for i, token in enumerate(tokens) if token), key=tokens.__getitem__)
        first: dict[bytes, int] = {}
        for i in ids:
            first.setdefault(tokens[i], i)
        # Sorting is stable, so the smallest id of equal tokens comes first.
        alias = [i for i in ids if first[tokens[i]] != i]
        aliased = [first[tokens[i]] for i in alias]
        self.words = list(first)  # in order
        levels = _levels(self.words, np.fromiter(first.values(), dtype=np.int32, count=len(first)))
        super().__init__(levels, np.array(alias, dtype=np.int32), np.array(aliased, dtype=np.int32))


def _levels(words: list[bytes], ids: Ints) -> list[Level]:
    """words: sorted, without repetition; ids: the token of each."""
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    offsets = np.cumsum(lengths) - lengths
    data = np.frombuffer(b"".join(words), dtype=np.uint8)
    node = np.zeros(len(words), dtype=np.int64)  # of each word, on the level above
    active = np.arange(len(words))
    levels: list[Level] = []
    start = depth = 0
    while active.size:
        byte = data[offsets[active] + depth]
        above = node[active]
        fresh = np.ones(active.size, dtype=bool)
        fresh[1:] = (byte[1:] != byte[:-1]) | (above[1:] != above[:-1])
        local = np.cumsum(fresh) - 1
        node[active] = local
        ends = lengths[active] == depth + 1
        stop = start + int(local[-1]) + 1
        levels.append(
            Level(
                start,
                stop,
                byte[fresh].astype(np.int32),
                above[fresh].astype(np.int32),
                local[ends].astype(np.int32),
                ids[active[ends]],
            )
        )
        active = active[~ends]
        start = stop
        depth += 1
    return levels


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)
