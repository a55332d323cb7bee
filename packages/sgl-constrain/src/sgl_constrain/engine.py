# SPDX-License-Identifier: Apache-2.0
"""Which way a grammar makes its masks: that of `ways`, in Python and numpy, or its twin in C, where it was
built.

Both give the same masks, bit for bit.
"""

from __future__ import annotations

import numpy as np

from sgl_constrain.automaton import Automaton
from sgl_constrain.slices import Slices
from sgl_constrain.trie import Bits, Ints
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.vocabulary import Vocabulary
from sgl_constrain.ways import Ways

__all__ = ["ENGINE", "NativeWays", "native", "ways"]


def ways(automaton: Automaton, vocabulary: Vocabulary, slices: Slices) -> Ways | NativeWays:
    """The masks of one automaton over a vocabulary. slices: of it, over the heads of the automaton."""
    kind = Ways if ENGINE.module is None else NativeWays
    return kind(automaton, vocabulary, slices)


class NativeWays:
    """The twin of `Ways`."""

    nbytes = 0  # transitions are the automaton's

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, slices: Slices) -> None:
        self._automaton = automaton
        assert automaton.twin_table is not None, "the twin came after the automaton"
        self._states = automaton.twin_table
        self._mask = np.empty(vocabulary.words * 4, dtype=np.uint8)
        self._tree = ENGINE.tree(vocabulary.trie, vocabulary.size, slices.usual)

    def key(self, mask: Bits) -> bytes:
        return self._tree.digest(mask)

    def equal(self, one: Ints, other: Bits) -> bool:
        return self._tree.equal(one, other)

    def kept(self, key: bytes, mask: Bits) -> Bits:
        self._mask = np.empty_like(mask)
        return mask

    def mask(self, state: int) -> Bits:
        self._tree.fill(self._states, state, self._mask)
        return self._mask
