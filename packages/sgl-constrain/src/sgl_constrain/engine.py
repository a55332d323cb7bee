# SPDX-License-Identifier: Apache-2.0
"""Which way a grammar makes its masks: that of `ways`, in Python and numpy, or its twin in C, where it was
built.

Both give the same masks, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import Automaton
from sgl_constrain.slices import Slices
from sgl_constrain.trie import Bits
from sgl_constrain.twin import ENGINE, native
from sgl_constrain.vocabulary import Vocabulary
from sgl_constrain.ways import Ways

__all__ = ["ENGINE", "NativeWays", "native", "ways"]


_DIGEST = 32  # bytes of a key that is not all of a mask
_MOST_BASES = 6


def ways(automaton: Automaton, vocabulary: Vocabulary, slices: Slices) -> Ways | NativeWays:
    """The masks of one automaton over a vocabulary. slices: of it, over the heads of the automaton."""
    kind = Ways if ENGINE.module is None else NativeWays
    return kind(automaton, vocabulary, slices)


class Differing(NamedTuple):
    """A mask as the words in which it differs from another, or from none set."""

    words: bytes
    base: Bits | None = None


class NativeWays:
    """The twin of `Ways`."""

    nbytes = 0  # transitions are the automaton's

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, slices: Slices) -> None:
        self._automaton = automaton
        assert automaton.twin_table is not None, "the twin came after the automaton"
        self._states = automaton.twin_table
        self._mask = np.empty(vocabulary.words * 4, dtype=np.uint8)
        self._bases: list[Bits] = []  # masks that differ in much from each other
        self._tree = ENGINE.tree(vocabulary.trie, vocabulary.size, slices.usual)
        self.key, self.write = self._tree.key, self._tree.restore

    def equal(self, one: Differing, other: Bits) -> bool:
        return one.base is None or self._tree.differing(other, one.base) == one.words

    def kept(self, key: bytes, mask: Bits) -> tuple[Differing, int]:
        if len(key) not in (_DIGEST, mask.size):  # else it may be no more than a key
            return Differing(key), len(key)
        for base in self._bases:
            words = self._tree.differing(mask, base)
            if words is not None:
                return Differing(words, base), len(words)
        whole = mask.copy()
        self._bases = [whole, *self._bases[: _MOST_BASES - 1]]
        return Differing(b"", whole), whole.size

    def array(self, mask: Differing) -> NDArray[np.int32]:
        array = np.empty(self._mask.size // 4, dtype=np.int32)
        self.write(mask, array[None], 0)
        array.flags.writeable = False
        return array

    def mask(self, state: int) -> Bits:
        self._tree.fill(self._states, state, self._mask)
        return self._mask
