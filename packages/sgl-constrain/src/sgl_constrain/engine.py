# SPDX-License-Identifier: Apache-2.0
"""Which walk a grammar gets: that of `walk`, in Python and numpy, or its twin in C, where it was built.

Both give the same masks, bit for bit.
"""

from __future__ import annotations

from typing import Protocol
from weakref import WeakKeyDictionary

import numpy as np

from sgl_constrain.automaton import Automaton
from sgl_constrain.readings import Reading
from sgl_constrain.runs import Run
from sgl_constrain.slices import Slice
from sgl_constrain.trie import Bits, Ints, Nodes
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.walk import Walks

__all__ = ["ENGINE", "NativeWalks", "native", "walks"]


class Tree(Protocol):
    """A copy of a trie that the twin walks."""


class NativeRows(Protocol):
    def walk(self, tree: Tree, state: int, out: Bits, /) -> None: ...

    def walk_after(
        self,
        tree: Tree,
        nodes: Ints,
        lengths: Ints,
        starts: Ints,
        least: int,
        most: int,
        skip: int,
        state: int,
        out: Bits,
        /,
    ) -> None: ...

    def clear(self) -> None: ...

    def __len__(self) -> int: ...


_TREES: WeakKeyDictionary[Nodes, Tree] = WeakKeyDictionary()


def _tree(trie: Nodes, size: int) -> Tree:
    known = _TREES.get(trie)
    if known is None:
        roots = trie.levels[0].stop if trie.levels else 0
        known = _TREES[trie] = ENGINE.module.Tree(
            trie.byte, trie.child_count, trie.token_at, trie.alias, trie.aliased, roots, size
        )
    return known


def walks(automaton: Automaton, trie: Nodes, size: int) -> Walks | NativeWalks:
    """The walks of one automaton over the trie of a vocabulary of `size` tokens."""
    kind = Walks if ENGINE.module is None else NativeWalks
    return kind(automaton, trie, size)


class NativeWalks:
    """The twin of `Walks`."""

    def __init__(self, automaton: Automaton, trie: Nodes, size: int, rows: NativeRows | None = None) -> None:
        self._automaton = automaton
        self._size = size
        self._words = (size + 31) // 32
        self._tree = _tree(trie, size)
        self._rows: NativeRows = ENGINE.module.Rows(automaton.table) if rows is None else rows

    def over(self, trie: Nodes) -> NativeWalks:
        return NativeWalks(self._automaton, trie, self._size, self._rows)

    @property
    def nbytes(self) -> int:
        return len(self._rows) * 1024

    def whole(self, state: int) -> Bits:
        out = np.zeros(self._words * 4, dtype=np.uint8)
        self._walk(self._tree, state, out)
        return out

    def beside(self, part: Slice, state: int) -> Bits:
        out = part.packed.copy()
        self._walk(_tree(part.trie, self._size), state, out)
        return out

    def after(self, run: Run, reading: Reading, skip: int = -1) -> Bits:
        out = run.packed_up_to(reading.most).copy()
        self._trim()
        nodes, lengths, starts = run.nodes, run.run_lengths, run.starts
        for least, most, state in reading.exits:
            self._rows.walk_after(self._tree, nodes, lengths, starts, least, most, skip, state, out)
        return out

    def _walk(self, tree: Tree, state: int, out: Bits) -> None:
        self._trim()
        self._rows.walk(tree, state, out)

    def _trim(self) -> None:
        if len(self._rows) > self._automaton.limits.rows:
            self._rows.clear()
