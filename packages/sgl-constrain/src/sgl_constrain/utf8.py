# SPDX-License-Identifier: Apache-2.0
"""Sets of code points as small deterministic machines over UTF-8 bytes: the *heads* of an automaton's items.

A head is a number; its edges say which bytes it takes and what is left to read afterwards. Equal heads have
equal numbers, so one table serves every grammar of a compiler. Surrogates have no UTF-8 form and disappear
here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple

from sgl_constrain.codepoints import MAX, Ranges, complement, intersection

NO_HEAD = 0
_SCALAR_VALUES = complement(((0xD800, 0xDFFF),))
# (first code point, last code point, first lead byte, number of continuation bytes)
_FORMS = ((0x80, 0x7FF, 0xC0, 1), (0x800, 0xFFFF, 0xE0, 2), (0x10000, 0x10FFFF, 0xF0, 3))


class Edge(NamedTuple):
    """On any byte in `mask` (a 256-bit set): continue with `head` (or `NO_HEAD`), and/or the head is
    complete.
    """

    mask: int
    head: int
    complete: bool


def run(first: int, count: int) -> int:
    """The set of bytes first, first + 1, ..., first + count - 1."""
    return ((1 << count) - 1) << first


def packed(edges: Iterable[Edge]) -> bytes:
    """40 bytes for each edge: its set of bytes, and `head << 1 | complete`."""
    return b"".join(
        [
            mask.to_bytes(32, "little") + (head << 1 | complete).to_bytes(8, "little")
            for mask, head, complete in edges
        ]
    )


class Heads:
    """The interned heads. `edges[h]` are disjoint; every head but NO_HEAD has one."""

    def __init__(self) -> None:
        self.edges: list[tuple[Edge, ...]] = [()]
        self._interned: dict[tuple[Edge, ...], int] = {}
        self._of_bytes: dict[int, int] = {}
        self._of_ranges: dict[Ranges, int] = {}
        self._beyond_ascii: dict[Ranges, tuple[Edge, ...]] = {}
        self._shortest: dict[int, int] = {NO_HEAD: 0}
        self._first: dict[int, int] = {NO_HEAD: 0}
        self._packed: dict[int, bytes] = {}
        self._lock = threading.RLock()

    def of_bytes(self, mask: int) -> int:
        """One byte out of `mask`."""
        head = self._of_bytes.get(mask)
        if head is None:
            head = self._of_bytes[mask] = self._intern((Edge(mask, NO_HEAD, True),))
        return head

    def of_characters(self, ranges: Ranges) -> int:
        """One character out of `ranges`; `NO_HEAD` when none of them has a UTF-8 form."""
        head = self._of_ranges.get(ranges)
        if head is None:
            with self._lock:
                head = self._of_ranges[ranges] = self._build(intersection(ranges, _SCALAR_VALUES))
        return head

    def packed(self, head: int) -> bytes:
        """The edges of a head, as the twin in C reads them."""
        known = self._packed.get(head)
        if known is None:
            known = self._packed[head] = packed(self.edges[head])
        return known

    def shortest(self, head: int) -> int:
        """How many bytes the shortest character has that a head reads."""
        known = self._shortest.get(head)
        if known is None:
            known = min(1 if edge.complete else 1 + self.shortest(edge.head) for edge in self.edges[head])
            self._shortest[head] = known
        return known

    def first(self, head: int) -> int:
        """The set of bytes with which a head begins."""
        known = self._first.get(head)
        if known is None:
            known = self._first[head] = sum(edge.mask for edge in self.edges[head])
        return known

    def _build(self, ranges: Ranges) -> int:
        edges: list[Edge] = []
        ascii_mask = 0
        for low, high in intersection(ranges, ((0, 0x7F),)):
            ascii_mask |= run(low, high - low + 1)
        if ascii_mask:
            edges.append(Edge(ascii_mask, NO_HEAD, True))
        edges += self._edges_beyond_ascii(intersection(ranges, ((0x80, MAX),)))
        return self._intern(tuple(edges)) if edges else NO_HEAD

    def _edges_beyond_ascii(self, ranges: Ranges) -> tuple[Edge, ...]:
        known = self._beyond_ascii.get(ranges)  # many classes differ in ASCII only
        if known is None:
            known = self._beyond_ascii[ranges] = tuple(
                Edge(mask << lead, head, False)
                for first, last, lead, depth in _FORMS
                for head, mask in self._blocks(intersection(ranges, ((first, last),)), depth).items()
            )
        return known

    def _blocks(self, ranges: Iterable[tuple[int, int]], depth: int) -> dict[int, int]:
        """Split into blocks of 64 ** depth code points: {head of a block: the set of blocks that have it}."""
        size = 64**depth
        whole = 0
        partial: dict[int, list[tuple[int, int]]] = {}
        for low, high in ranges:
            while low <= high:
                block, offset = divmod(low, size)
                if offset == 0 and low + size - 1 <= high:
                    count = (high - low + 1) // size
                    whole |= run(block, count)
                    low += count * size
                else:
                    end = min(high, (block + 1) * size - 1)
                    partial.setdefault(block, []).append((offset, end - block * size))
                    low = end + 1
        found: dict[int, int] = {}
        if whole:
            found[self._continuation(((0, size - 1),), depth)] = whole
        for block, parts in partial.items():
            head = self._continuation(tuple(parts), depth)
            found[head] = found.get(head, 0) | 1 << block
        return found

    def _continuation(self, ranges: Ranges, depth: int) -> int:
        """`depth` continuation bytes that spell an offset in `ranges`."""
        if depth == 1:
            mask = 0
            for low, high in ranges:
                mask |= run(low, high - low + 1)
            return self._intern((Edge(mask << 0x80, NO_HEAD, True),))
        blocks = self._blocks(ranges, depth - 1)
        return self._intern(tuple(Edge(mask << 0x80, head, False) for head, mask in blocks.items()))

    def _intern(self, edges: tuple[Edge, ...]) -> int:
        edges = tuple(sorted(edges))
        head = self._interned.get(edges)
        if head is None:
            with self._lock:
                head = self._interned.get(edges)
                if head is None:
                    self.edges.append(edges)
                    head = self._interned[edges] = len(self.edges) - 1
        return head
