# SPDX-License-Identifier: Apache-2.0
"""Which walk a grammar gets: that of `walk`, in Python and numpy, or its twin in C, where it was built.

Both give the same masks, bit for bit.
"""

from __future__ import annotations

import numpy as np

from sgl_constrain.automaton import Automaton
from sgl_constrain.readings import Reading
from sgl_constrain.runs import Run
from sgl_constrain.slices import Slice
from sgl_constrain.trie import Bits, Nodes
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.walk import Walks

__all__ = ["ENGINE", "NativeWalks", "native", "walks"]


def walks(automaton: Automaton, trie: Nodes, size: int) -> Walks | NativeWalks:
    """The walks of one automaton over the trie of a vocabulary of `size` tokens."""
    kind = Walks if ENGINE.module is None else NativeWalks
    return kind(automaton, trie, size)


class NativeWalks:
    """The twin of `Walks`."""

    nbytes = 0  # transitions are the automaton's

    def __init__(self, automaton: Automaton, trie: Nodes, size: int) -> None:
        self._automaton = automaton
        self._states = automaton.table
        self._size = size
        self._words = (size + 31) // 32
        self._tree = ENGINE.tree(trie, size)

    def over(self, trie: Nodes) -> NativeWalks:
        return NativeWalks(self._automaton, trie, self._size)

    def whole(self, state: int) -> Bits:
        out = np.zeros(self._words * 4, dtype=np.uint8)
        self._tree.walk(self._states, state, out)
        return out

    def beside(self, part: Slice, state: int) -> Bits:
        out = part.packed.copy()
        ENGINE.tree(part.trie, self._size).walk(self._states, state, out)
        return out

    def after(self, run: Run, reading: Reading, skip: int = -1) -> Bits:
        out = run.packed_up_to(reading.most).copy()
        nodes, lengths, starts = run.nodes, run.run_lengths, run.starts
        for least, most, state in reading.exits:
            self._tree.walk_after(self._states, nodes, lengths, starts, least, most, skip, state, out)
        return out
