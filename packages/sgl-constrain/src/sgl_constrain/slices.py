# SPDX-License-Identifier: Apache-2.0
"""Masks in two parts, where a state can read more characters of one class than any token has.

Inside a string nearly every token is allowed, for the same reason in every string of every grammar: it
consists of characters of the class. Those tokens are found once per class (the slice); what is left to walk
in a state is the trie of the others. A slice is made when its class is met for the second time.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.limits import Limits
from sgl_constrain.trie import Trie
from sgl_constrain.utf8 import Heads
from sgl_constrain.vocabulary import Vocabulary
from sgl_constrain.walk import Rows, Walk


class Slice(NamedTuple):
    allowed: NDArray[np.bool_]  # [size + 1], as of `Walk`: the tokens inside the class
    longest: int  # how many characters of the class one of them has at most
    trie: Trie  # all other tokens


class Slices:
    """The slices of one vocabulary, for all grammars whose heads are numbered by `heads`. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, heads: Heads, limits: Limits) -> None:
        self._vocabulary = vocabulary
        self._heads = heads
        self._limits = limits
        self._lock = threading.Lock()
        self._slices: dict[int, Slice | None] = {}

    def of(self, head: int) -> Slice | None:
        """The slice of the tokens inside `head*`; None when the head is met for the first time."""
        known = self._slices.get(head)
        if known is None:
            with self._lock:
                if head not in self._slices:
                    self._slices[head] = None
                    return None
                known = self._slices[head] or self._make(head)
                self._slices[head] = known
        return known

    def _make(self, head: int) -> Slice:
        expressions = Expressions(self._heads, self._limits)
        automaton = Automaton(expressions, expressions.repeat(expressions.of_head(head), 0), pruned=True)
        allowed = np.zeros(self._vocabulary.size + 1, dtype=np.bool_)
        Walk(automaton, Rows(automaton), self._vocabulary.trie).mark(automaton.start, allowed)
        inside = (self._vocabulary[i] for i in np.flatnonzero(allowed[:-1]).tolist())
        longest = max((sum(byte & 0xC0 != 0x80 for byte in token) for token in inside), default=0)
        rest = [b"" if read else self._vocabulary[i] for i, read in enumerate(allowed[:-1].tolist())]
        return Slice(allowed, longest, Trie(rest))
