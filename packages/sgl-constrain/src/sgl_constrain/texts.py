# SPDX-License-Identifier: Apache-2.0
"""Heads that read one text, byte after byte: what is left of the text after a byte is the next head.

So a text that is being read needs neither an expression nor a continuation for each of its bytes. The heads
are those of one automaton; their numbers lie between those of characters and those of products.
"""

from __future__ import annotations

from typing import Final

from sgl_constrain.utf8 import NO_HEAD, Edge

TEXTS: Final = 1 << 29  # heads from here on read texts; below they read characters


class Texts:
    """Equal texts have one head; so has what is left of them, but it may have another of its own too."""

    def __init__(self) -> None:
        self._heads: dict[bytes, int] = {}
        self._bytes = bytearray()  # of all texts, one after another
        self._ends: list[int] = []  # where the text ends to which each belongs

    def head(self, text: bytes) -> int:
        """The head that reads a text, which is not empty."""
        known = self._heads.get(text)
        if known is None:
            known = self._heads[text] = TEXTS + len(self._bytes)
            self._bytes += text
            self._ends += [len(self._bytes)] * len(text)
        return known

    def edge(self, head: int) -> Edge:
        """The only one."""
        place = head - TEXTS
        last = self._ends[place] == place + 1
        return Edge(1 << self._bytes[place], NO_HEAD if last else head + 1, last)

    def text(self, head: int) -> bytes:
        """What a head reads, with those after it."""
        place = head - TEXTS
        return bytes(self._bytes[place : self._ends[place]])

    def left(self, head: int) -> int:
        """How many bytes that has."""
        return self._ends[head - TEXTS] - (head - TEXTS)

    def first(self, head: int) -> int:
        """The byte with which a head begins, as a set."""
        return 1 << self._bytes[head - TEXTS]
