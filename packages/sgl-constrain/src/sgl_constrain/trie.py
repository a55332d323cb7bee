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


class Trie:
    """Built once per vocabulary, in time proportional to the bytes of all tokens. Empty tokens are
    left out.
    """

    def __init__(self, tokens: Sequence[bytes]) -> None:
        ids = sorted((i for i, token in enumerate(tokens) if token), key=tokens.__getitem__)
        first: dict[bytes, int] = {}
        for i in ids:
            first.setdefault(tokens[i], i)
        # Sorting is stable, so the smallest id of equal tokens comes first.
        self.alias = np.array([i for i in ids if first[tokens[i]] != i], dtype=np.int32)
        self.aliased = np.array([first[tokens[i]] for i in self.alias.tolist()], dtype=np.int32)
        self.words = list(first)  # in order
        self.ids = np.fromiter(first.values(), dtype=np.int32, count=len(first))
        self.levels = self._levels()
        self.nodes = self.levels[-1].stop if self.levels else 0
        self.byte = np.concatenate([level.byte for level in self.levels] or [np.empty(0, dtype=np.int32)])
        self.token_at = np.full(self.nodes, -1, dtype=np.int32)
        children = np.zeros(self.nodes + 1, dtype=np.int32)
        for level in self.levels:
            self.token_at[level.token_node + level.start] = level.token
        for level, below in pairwise(self.levels):
            children[level.start : level.stop] = np.bincount(below.parent, minlength=level.stop - level.start)
        self.child_count = children[:-1].copy()
        roots = self.levels[0].stop if self.levels else 0
        self.first_child = (np.cumsum(children) - children + roots)[:-1].astype(np.int32)

    def _levels(self) -> list[Level]:
        lengths = np.array([len(word) for word in self.words], dtype=np.int64)
        offsets = np.cumsum(lengths) - lengths
        data = np.frombuffer(b"".join(self.words), dtype=np.uint8)
        node = np.zeros(len(self.words), dtype=np.int64)  # of each word, on the level above
        active = np.arange(len(self.words))
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
                    self.ids[active[ends]],
                )
            )
            active = active[~ends]
            start = stop
            depth += 1
        return levels
