# SPDX-License-Identifier: Apache-2.0
"""Which walk the mask of a state takes: from where tokens leave a run, beside a slice, or from the root; and
what begins with a space apart from the rest, where that pays.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import ENDLESS
from sgl_constrain.readings import Excluding
from sgl_constrain.slices import SPACE, Slice, Slices
from sgl_constrain.states import DEAD
from sgl_constrain.trie import Bits
from sgl_constrain.vocabulary import Vocabulary
from sgl_constrain.walk import Walks, states_on_the_way

_NARROW = 20  # first bytes up to which there is nothing to gain from slices
_MOST_KEPT = 16  # masks of which others are made


class Ways:
    """The masks of one automaton over one vocabulary; not thread-safe: `Grammar` holds the lock."""

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary, slices: Slices) -> None:
        self._automaton = automaton
        self._trie = vocabulary.trie
        self._slices = slices
        self._walks = Walks(automaton, vocabulary.trie, vocabulary.size, slices.spreads)
        self._kept: dict[int | Excluding, Bits] = {}  # of which others are made
        self._spaced = self._slices.spaced

    @cached_property
    def _after_space(self) -> Walks:
        assert self._spaced is not None
        return self._walks.over(self._spaced.nodes)

    @cached_property
    def _unspaced(self) -> Walks:
        assert self._spaced is not None
        return self._walks.over(self._spaced.others)

    @property
    def nbytes(self) -> int:
        return self._walks.nbytes + sum([mask.nbytes for mask in self._kept.values()])

    def key(self, mask: Bits) -> bytes:
        """Equal for equal masks; others seldom have the same one."""
        return mask.tobytes()

    def equal(self, one: NDArray[np.int32], other: Bits) -> bool:
        """Are a mask that is kept and another with the same key equal?"""
        return True

    def kept(self, key: bytes, mask: Bits) -> tuple[NDArray[np.int32], int]:
        """The mask, to be kept beside its key; and how many bytes of its own that takes."""
        return np.frombuffer(key, dtype="<i4").astype(np.int32, copy=False), len(key)

    def array(self, mask: NDArray[np.int32]) -> NDArray[np.int32]:
        """[words], read-only: one that is kept."""
        return mask

    def write(self, mask: NDArray[np.int32], out: NDArray[np.int32], row: int) -> None:
        """The same into a row of `out`, [n, words]."""
        out[row] = mask

    def mask(self, state: int) -> Bits:
        """[words * 4] uint8: the tokens whose text may come next, other than the end. The caller's until the
        next one is asked for.
        """
        if self._is_narrow(state) or self._walks.is_spread(state):
            return self._walks.whole(state)
        reading = self._automaton.run(state)
        run = None if reading is None else self._slices.run(reading.head)
        if reading is not None and run is not None:
            if self._automaton.reads(reading.head, SPACE):
                return self._walks.after(run, reading)
            words = self._words_after_space(state)
            if words is None or self._spaced is None:
                return self._walks.after(run, reading)
            return words | self._walks.after(run, reading, self._spaced.root)
        without = self._automaton.without_words(state)
        bits = None if without is None else self._without(without)
        if bits is not None:
            return bits
        part = self._slice(state)
        if part is not None:
            return self._walks.beside(part, state)
        words = self._words_after_space(state)
        return self._walks.whole(state) if words is None else words | self._unspaced.whole(state)

    def _is_narrow(self, state: int) -> bool:
        """Does it read no class over and over, and nothing that begins with a space or with many bytes?"""
        begins = self._automaton.begins(state)
        if begins >> SPACE & 1 or begins.bit_count() > _NARROW:
            return False
        return begins.bit_count() == 1 or self._automaton.repeated(state) is None

    def _without(self, reading: Excluding) -> Bits | None:
        """Of texts of any kind but some: those of any kind, but where one of these ends."""
        key = reading._replace(others=DEAD)
        bits = self._kept.get(key)
        if bits is None:
            excluded = self._walks.excluded(reading)
            if excluded is None:
                return None
            plain = self._kept.get(reading.plain)
            if plain is None:
                plain = self._keep(reading.plain, self.mask(reading.plain))
            bits = self._keep(key, plain & ~excluded)
        return bits.copy() if reading.others == DEAD else bits | self._walks.whole(reading.others)

    def _keep(self, key: int | Excluding, mask: Bits) -> Bits:
        if len(self._kept) == _MOST_KEPT:
            self._kept.clear()
        self._kept[key] = mask
        return mask

    def _words_after_space(self, state: int) -> Bits | None:
        """The tokens that begin with a space and may come next; None where no large class is read over and
        over after it, or not much is known of that.
        """
        if self._spaced is None:
            return None
        after = self._automaton.step(state, SPACE)
        head = self._automaton.repeated(after)
        if head is None or not self._automaton.is_large(head):
            return None
        words = self._automaton.run(after)
        run = None if words is None else self._spaced.slices.run(words.head)
        if words is not None and run is not None:
            bits = self._after_space.after(run, words)
        else:
            loop = self._automaton.loop(after)
            part = None if loop is None else self._spaced.slices.of(*loop)
            if part is None:
                return None
            bits = self._after_space.beside(part, after)
        for token in self._spaced.tokens:
            bits[token >> 3] |= 1 << (token & 7)
        return bits

    def _slice(self, state: int) -> Slice | None:
        """Tokens that are allowed for one reason: characters of a class that the state may read over and
        over.
        """
        loop = self._automaton.loop(state)
        if loop is not None:
            return self._slices.of(*loop)
        excluding = self._automaton.excluding(state)
        if excluding is None:
            return None
        head, left, right = excluding
        part = self._slices.of(head, ENDLESS)
        if part is None:
            return None
        on_the_way = states_on_the_way(self._automaton, self._trie, right)
        if on_the_way is None or not all(self._automaton.differs(left, other) for other in on_the_way):
            return None
        return part
