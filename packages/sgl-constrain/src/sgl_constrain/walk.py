# SPDX-License-Identifier: Apache-2.0
"""Which tokens may come next: the automaton run over the whole trie at once, level by level.

A level is walked in one of three ways. *Dense*: every node, as one gather, while much of the level lives.
*Sparse*: the living nodes only, as arrays. *Plain*: a handful of nodes in plain Python, where an array
operation would cost more than the work it does. All three give the same answer; only the order of effort
differs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import Automaton
from sgl_constrain.trie import Ints, Trie

_PLAIN = 24  # living nodes up to which plain Python is faster than arrays
_PLAIN_WORK = 96  # children to look at up to which plain Python is faster
_FEW_CHILDREN = 8  # children up to which they are tried one by one
_DENSE = 4  # a level is walked whole while more than 1 / _DENSE of it lives

# Rows hold states times 256, ready to be added to a byte. 0: not known yet. DEAD is written as row 1, which
# leads only to itself; the automaton's own state 1 (DONE) is never entered by a byte.
_UNKNOWN = 0
_SINK = 1 << 8


class Rows:
    """Transitions as a matrix [states, 256], each row filled in when a walk first needs it."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._reset(1024)

    def _reset(self, capacity: int) -> None:
        # Untouched rows of a zeroed matrix cost address space only.
        self.matrix = np.zeros((capacity, 256), dtype=np.int32)
        self.matrix[1] = _SINK
        self.flat = self.matrix.reshape(-1)
        self._filled: set[int] = {1}

    def trim(self) -> None:
        """Drop everything when it is too much; not during a walk, which needs the rows of a whole
        level together.
        """
        if len(self._filled) > self._automaton.limits.rows:
            self._reset(1024)

    @property
    def nbytes(self) -> int:
        return len(self._filled) * 1024

    def require(self, states: list[int]) -> None:
        """Fill the rows of `states`, and make room for every state they lead to."""
        rows = [(state, self._automaton.moves(state)) for state in states]
        needed = len(self._automaton.states)
        if needed > self.matrix.shape[0]:
            old, filled = self.matrix, sorted(self._filled)
            self._reset(max(needed, 2 * old.shape[0]))
            self.matrix[filled] = old[filled]
            self._filled = set(filled)
        for state, moves in rows:
            row = self.matrix[state]
            row[:] = _SINK
            for mask, target in moves:
                row[_positions(mask)] = target << 8
        self._filled.update(states)


def _positions(mask: int) -> NDArray[np.bool_]:
    bits = np.unpackbits(np.frombuffer(mask.to_bytes(32, "little"), dtype=np.uint8), bitorder="little")
    return bits.view(np.bool_)


class Walk:
    """Walks one trie with one automaton. `allowed(state)` is a pure function; what is kept only
    saves time.
    """

    def __init__(self, automaton: Automaton, rows: Rows, trie: Trie) -> None:
        self._automaton = automaton
        self._rows = rows
        self._trie = trie
        # Plain Python reads single elements several times faster from these than from arrays.
        self._byte = trie.byte.data
        self._first_child = trie.first_child.data
        self._child_count = trie.child_count.data
        self._token_at = trie.token_at.data
        self._child_sets: dict[int, int] = {}

    def mark(self, state: int, allowed: NDArray[np.bool_]) -> None:
        """Set `allowed`, [vocabulary size + 1], for the tokens of the trie that may come next; the last
        element is
        scratch. Other tokens are left as they are."""
        if self._trie.levels:
            self._walk(state, allowed)
            allowed[self._trie.alias] = allowed[self._trie.aliased]

    def _walk(self, state: int, allowed: NDArray[np.bool_]) -> None:
        nodes: list[int] | Ints
        codes: list[int] | Ints
        if self._live_bytes(state) <= _PLAIN:
            nodes, codes = [], []
            self._plain(0, self._trie.levels[0].stop, state, nodes, codes, allowed)
        else:
            nodes, codes = self._dense(state, allowed)
        while len(nodes):
            if len(nodes) <= _PLAIN:
                nodes, codes = self._plain_step(nodes, codes, allowed)
            else:
                nodes, codes = self._sparse_step(
                    np.asarray(nodes, np.int32), np.asarray(codes, np.int32), allowed
                )

    def _live_bytes(self, state: int) -> int:
        return sum(mask.bit_count() for mask, _ in self._automaton.moves(state))

    def _advance(self, codes: Ints, byte: Ints) -> Ints:
        """One transition of every code in `codes`, each on its own byte."""
        index = codes + byte
        found = self._rows.flat.take(index)
        while np.count_nonzero(found) != found.size:
            missing = np.zeros(len(self._automaton.states), dtype=np.bool_)
            missing[codes[found == _UNKNOWN] >> 8] = True
            self._rows.require(np.flatnonzero(missing).tolist())
            found = self._rows.flat.take(index)
        return found

    def _dense(self, state: int, allowed: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """Whole levels from the root down; returns the living nodes of the first level that is
        mostly dead.
        """
        self._rows.require([state])
        codes: Ints = np.full(1, state << 8, dtype=np.int32)
        nodes: Ints = np.empty(0, dtype=np.int32)
        for level in self._trie.levels:
            codes = self._advance(codes.take(level.parent), level.byte)
            living = codes > _SINK
            allowed[level.token] = living[level.token_node]
            if np.count_nonzero(living) * _DENSE <= codes.size:
                nodes = np.flatnonzero(living).astype(np.int32)
                return nodes + np.int32(level.start), codes[nodes]
        return nodes, codes

    def _sparse_step(self, nodes: Ints, codes: Ints, allowed: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """The living children of `nodes`, with their tokens marked."""
        counts = self._trie.child_count[nodes]
        before = np.cumsum(counts, dtype=np.int32) - counts
        below = np.repeat(self._trie.first_child[nodes] - before, counts)
        below += np.arange(below.size, dtype=np.int32)
        found = self._advance(np.repeat(codes, counts), self._trie.byte[below])
        living = found > _SINK
        below = below[living]
        allowed[self._trie.token_at[below]] = True
        return below, found[living]

    def _plain_step(
        self, nodes: Ints | list[int], codes: Ints | list[int], allowed: NDArray[np.bool_]
    ) -> tuple[list[int] | Ints, list[int] | Ints]:
        """The same in plain Python, unless the nodes have so many children that arrays are worth it after
        all.
        """
        pairs = list(zip(_as_list(nodes), _as_list(codes), strict=True))
        first_child, child_count = self._first_child, self._child_count
        work = sum(min(child_count[node], self._live_bytes(code >> 8)) for node, code in pairs)
        if work > _PLAIN_WORK:
            return self._sparse_step(np.asarray(nodes, np.int32), np.asarray(codes, np.int32), allowed)
        below: list[int] = []
        found: list[int] = []
        for node, code in pairs:
            count = child_count[node]
            if count:
                self._plain(first_child[node], count, code >> 8, below, found, allowed)
        return below, found

    def _plain(
        self,
        first: int,
        count: int,
        state: int,
        nodes: list[int],
        codes: list[int],
        allowed: NDArray[np.bool_],
    ) -> None:
        """Append the living ones of the nodes first..first + count, the children of a node reached in
        `state`.
        """
        byte, token_at = self._byte, self._token_at
        for mask, target in self._automaton.moves(state):
            if count <= _FEW_CHILDREN:
                living = [child for child in range(first, first + count) if mask >> byte[child] & 1]
            else:
                children = self._child_set(first, count)
                living = [first + (children & (bit - 1)).bit_count() for bit in _bits(mask & children)]
            for child in living:
                nodes.append(child)
                codes.append(target << 8)
                allowed[token_at[child]] = True

    def _child_set(self, first: int, count: int) -> int:
        known = self._child_sets.get(first)
        if known is None:
            byte = self._byte
            known = self._child_sets[first] = sum(1 << byte[child] for child in range(first, first + count))
        return known


def _as_list(values: Ints | list[int]) -> list[int]:
    return values if isinstance(values, list) else values.tolist()


def _bits(mask: int) -> Iterator[int]:
    """The single bits of a set, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit
