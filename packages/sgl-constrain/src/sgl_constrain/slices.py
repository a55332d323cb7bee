# SPDX-License-Identifier: Apache-2.0
"""What is known of a vocabulary before any grammar: which of its tokens, and which nodes of its trie, consist
of characters of one class.

Two kinds of state are walked with that knowledge instead of from the root. A state that reads a class, and
what begins like none of its characters, is walked from where tokens leave the class (`Run`), without a state
for each length. And where other things begin alike, the tokens inside the class are set at once (the
*slice*), and what is left to walk is the trie of the others.

The usual classes are gone through when the vocabulary is made, others when they are first met, or, where that
takes longer, for the second time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import NamedTuple

import numpy as np

from sgl_constrain.codepoints import ANY, ASCII_DIGIT, NOT_NEWLINE, complement, matching, prepare, union
from sgl_constrain.expression import ENDLESS
from sgl_constrain.runs import Run, Runs, packed
from sgl_constrain.spreads import Spreads
from sgl_constrain.trie import Bits, Bools, Nodes
from sgl_constrain.twin import Table
from sgl_constrain.utf8 import Heads

_MOST = 32  # slices, and classes, kept: those used least recently are forgotten
_SHORTEST = 8  # characters from which on a bounded repetition has a slice
_SPACED = 4  # tokens after a space are told apart when 1 / _SPACED of the trie's nodes are below it
SPACE = 0x20

_UNESCAPED = complement(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))
_BLANK = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20))


class Slice(NamedTuple):
    allowed: Bools  # [size + 1], as of `Walk`: tokens inside the class
    packed: Bits  # the same as a bitmask
    trie: Nodes  # all other tokens


class Spaced(NamedTuple):
    """Most vocabularies have nearly every word twice, once after a space.

    root: the space's node in the trie; tokens: those that are a space, and nothing more. nodes: what follows
    the space in the others; slices: its classes. others: the trie of the tokens that begin otherwise.
    """

    root: int
    tokens: list[int]
    nodes: Nodes
    slices: Slices
    others: Nodes


class Slices:
    """The classes of one vocabulary, for every grammar. Thread-safe.

    `heads` numbers the classes. size: the vocabulary's. nodes: the trie of its tokens.
    """

    def __init__(self, nodes: Nodes, size: int, heads: Heads | None = None) -> None:
        self.heads = heads or Heads()
        self.spreads = Spreads(self.heads)
        self._nodes = nodes
        self._size = size
        self._lock = threading.Lock()
        self._runs = Runs(self.heads, nodes, size)
        self._classes: OrderedDict[int, Run | None] = OrderedDict()
        self._slices: OrderedDict[tuple[int, int], Slice | None] = OrderedDict()
        prepare()
        whole = heads is None
        if whole and nodes.nodes:
            self.spreads.make(nodes, 0, nodes.levels[0].stop, self.heads.of_characters(_BLANK))
        for ranges in (_BLANK, ASCII_DIGIT):
            self._prepare(self.heads.of_characters(ranges), ())
        word, blank = matching(r"\w"), matching(r"\s")
        for ranges in (ANY, NOT_NEWLINE, word, union((*word, *blank))):
            self._prepare(self.heads.of_characters(ranges), (ENDLESS,) if whole else ())
        self._prepare(self.heads.of_characters(_UNESCAPED), (ENDLESS, 32, 16) if whole else ())
        self.spaced = self._below_space() if whole else None

    def __reduce__(self) -> tuple[type[Slices], tuple[Nodes, int]]:
        return Slices, (self._nodes, self._size)

    def of(self, head: int, times: int) -> Slice | None:
        """The slice of the tokens inside `head{0,times}`, or of as many of them as is worth it; None when the
        class is small, or as in `run`, or `times` is small.
        """
        with self._lock:
            known = self._class(head)
            if known is None or not known.large:
                return None  # what is left would be nearly everything
            if times == ENDLESS or times >= known.longest:
                times = ENDLESS
            elif times < _SHORTEST:
                return None
            else:
                times = 1 << times.bit_length() - 1
            return self._slice(head, known, times)

    def run(self, head: int) -> Run | None:
        """The runs of `head`; None when the class is met for the first time, and takes long to go through."""
        with self._lock:
            return self._class(head)

    def usual(self) -> list[tuple[bytes, Table]]:
        """As `Runs.usual`."""
        return self._runs.usual()

    def _prepare(self, head: int, times: tuple[int, ...]) -> None:
        if self._nodes.nodes and head not in self._classes:
            known = self._classes[head] = self._runs.of(head)
            for n in times if known.large else ():
                if n == ENDLESS or n < known.longest:
                    self._slices[head, n] = self._cut(known, n)

    def _below_space(self) -> Spaced | None:
        if not self._nodes.nodes:
            return None
        roots = self._nodes.byte[: self._nodes.levels[0].stop]
        found = np.flatnonzero(roots == SPACE).tolist()
        nodes = self._nodes.below(found[0]) if found else None
        if nodes is None or nodes.nodes * _SPACED < self._nodes.nodes:
            return None
        root: int = found[0]
        token = int(self._nodes.token_at[root])
        alone = [token, *self._nodes.alias[self._nodes.aliased == token].tolist()] if token >= 0 else []
        spaced = np.zeros(self._size + 1, dtype=np.bool_)
        spaced[nodes.token_at] = True
        spaced[alone] = True
        return Spaced(root, alone, nodes, Slices(nodes, self._size, self.heads), self._nodes.without(spaced))

    def _class(self, head: int) -> Run | None:
        met = head in self._classes
        known = self._classes.pop(head, None)
        if known is None and (met or self._runs.is_quick(head)):
            known = self._runs.of(head)
        self._classes[head] = known
        if len(self._classes) > _MOST:
            self._classes.popitem(last=False)
        return known

    def _slice(self, head: int, known: Run, times: int) -> Slice | None:
        key = head, times
        if key not in self._slices:
            part = None if times != ENDLESS else self._cut(known, times)
        else:
            part = self._slices.pop(key) or self._cut(known, times)
        self._slices[key] = part
        if len(self._slices) > _MOST:
            self._slices.popitem(last=False)
        return part

    def _cut(self, known: Run, times: int) -> Slice:
        allowed = known.tokens_up_to(known.longest if times == ENDLESS else times)
        return Slice(allowed, packed(allowed[:-1]), self._nodes.without(allowed))
