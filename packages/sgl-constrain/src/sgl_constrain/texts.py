# SPDX-License-Identifier: Apache-2.0
"""Heads that read one text, byte after byte: what is left of the text after a byte is the next head.

So a text that is being read needs neither an expression nor a continuation for each of its bytes. The heads
are those of one automaton; their numbers lie between those of characters and those of products. Where words
of a table are alike in more bytes, a head reads one of these and the rest is an expression.
"""

from __future__ import annotations

from typing import Final, cast

from sgl_constrain.expression import Expressions, Words
from sgl_constrain.utf8 import NO_HEAD, Edge

TEXTS: Final = 1 << 29  # heads from here on read texts; below they read characters
NOTHING: Final = -1  # instead of an expression


class Texts:
    """Equal texts have one head; so has what is left of them, but it may have another of its own too."""

    def __init__(self, expressions: Expressions) -> None:
        self._expressions = expressions
        self._words: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        self._heads: dict[bytes, int] = {}
        self._bytes = bytearray()  # of all texts, one after another
        self._ends: list[int] = []  # where the text ends to which each belongs

    def begin(self, expression: int) -> tuple[int, list[tuple[int, int]]]:
        """Of words: what follows the one that ends here, or NOTHING; and heads, each with what follows it."""
        known = self._words.get(expression)
        if known is not None:
            return known
        table, low, high, depth = cast(Words, self._expressions.nodes[expression])
        words, follow = self._expressions.tables[table]
        if high == low + 1 and len(words[low]) > depth:  # most of them
            self._words[expression] = alone = NOTHING, [(self.head(words[low][depth:]), follow[low])]
            return alone
        ended = NOTHING
        if len(words[low]) == depth:
            ended = follow[low]
            low += 1
        edges: list[tuple[int, int]] = []
        while low < high:
            byte = words[low][depth]
            end = low + 1
            while end < high and words[end][depth] == byte:
                end += 1
            if end == low + 1:
                edges.append((self.head(words[low][depth:]), follow[low]))
            else:
                after = self._expressions.rest_of_words(table, low, end, depth + 1)
                edges.append((self._expressions.heads.of_bytes(1 << byte), after))
            low = end
        self._words[expression] = ended, edges
        return ended, edges

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

    def beginning(self, head: int, most: int) -> bytes:
        """The first `most` bytes of that."""
        place = head - TEXTS
        return bytes(self._bytes[place : min(self._ends[place], place + most)])

    def left(self, head: int) -> int:
        """How many bytes that has."""
        return self._ends[head - TEXTS] - (head - TEXTS)

    def first(self, head: int) -> int:
        """The byte with which a head begins, as a set."""
        return 1 << self._bytes[head - TEXTS]
