# SPDX-License-Identifier: Apache-2.0
"""`Runs`: for a class of characters, the tokens that consist of it, and where the others leave it.

A state that reads characters of one class, and what begins like none of them, needs no walk from the root:
the tokens inside the class are allowed for that reason alone, and whatever else is allowed leaves the class
at one of few nodes of the trie. Most classes are ASCII characters, or all characters but some of ASCII; for
those it is enough to know which ASCII characters stand on the way to each node.

Knows a trie and classes, and nothing of grammars.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.codepoints import ANY, ECMA_SPACE, complement, matching, union
from sgl_constrain.tails import Tails, tails
from sgl_constrain.trie import Bits, Bools, Ints, Nodes
from sgl_constrain.utf8 import NO_HEAD, Edge, Heads
from sgl_constrain.utf8 import packed as packed_edges

_DEAD, _BETWEEN = 0, 1  # states of a class: left it, between two of its characters; others are inside of one
_WORD = (1 << 64) - 1
_ASCII = (1 << 128) - 1
_BYTES = (1 << 256) - 1
_MOST_TABLES = 32  # of classes beyond ASCII, remembered
_FEW = 24  # nodes that are walked one by one
_ASKED = 4  # times before tails are made of more
_AT_ONCE = 1 << 15  # nodes gone through at once: temporary arrays beyond that are pages to be cleared first

Words = NDArray[np.uint64]


Inside = Callable[[Ints], Bools]


@dataclass(frozen=True, eq=False)
class Run:
    """The runs of one class, in a vocabulary of `size` tokens.

    tokens: [size + 1], those that are a run as a whole, up to a last character that may be incomplete;
    lengths: [size + 1], how many characters begin in each token; longest: the most in one of `tokens`.
    leaving: the bytes with which no character of the class begins; exits: the nodes where one of them leaves
    the class, in the order of the characters before them, and how many these are. large: most tokens are
    inside.
    """

    size: int
    tokens: Bools
    lengths: Ints
    longest: int
    large: bool
    leaving: int
    exits: Callable[[int], tuple[Ints, list[int]]]
    trie: Nodes
    _masks: dict[int, Bits] = field(default_factory=dict)
    _after: dict[int, tuple[Ints, list[int]]] = field(default_factory=dict)
    _tails: dict[int, Tails | int] = field(default_factory=dict)

    def tokens_up_to(self, times: int) -> Bools:
        """[size + 1]: the tokens that are runs of at most `times` characters, to be changed by the caller."""
        if times >= self.longest:
            return self.tokens.copy()
        tokens = np.zeros(self.size + 1, dtype=np.bool_)
        tokens[:-1] = np.unpackbits(self.packed_up_to(times), count=self.size, bitorder="little")
        return tokens

    def packed_up_to(self, times: int) -> Bits:
        """The same as a bitmask: not to be changed."""
        times = min(times, self.longest)
        mask = self._masks.get(times)
        if mask is None:
            mask = self._masks[times] = packed((self.tokens & (self.lengths <= times))[:-1])
        return mask

    def after(self, byte: int, least: int, most: int) -> Ints:
        """The nodes that `byte`, one of those that leave, leads to after runs of least..most characters."""
        known = self._after.get(byte)
        if known is None:
            known = self._after[byte] = self.exits(byte)
        nodes, lengths = known
        return nodes[bisect_left(lengths, least) if least else 0 : bisect_right(lengths, most)]

    def tails(self, byte: int) -> Tails | None:
        """How tokens go on after `byte`, one of those that leave; None where few do, or until that is worth
        it.
        """
        known = self._tails.get(byte, 0)
        if isinstance(known, Tails):
            return known
        nodes, lengths = self._after[byte]
        if len(lengths) < _FEW:
            return None
        self._tails[byte] = known + 1
        if known < _ASKED:
            return None
        made = self._tails[byte] = tails(self.trie, nodes, lengths[0], lengths[-1])
        return made


class _Paths:
    """What stands on the way to each of some nodes: ASCII character b is bit b of `low`, or bit b - 64 of
    `high`; `ascii`: and nothing else. states: of the usual classes beyond ASCII, as far as 2.
    """

    def __init__(self, low: Words, high: Words, ascii: Bools, states: list[NDArray[np.uint8]]) -> None:
        self.low = low
        self.high = high
        self.ascii = ascii
        self.states = states

    def of(self, nodes: Ints) -> _Paths:
        """The same of some of them."""
        states = [states[nodes] for states in self.states]
        return _Paths(self.low[nodes], self.high[nodes], self.ascii[nodes], states)

    def inside(self, low: int, high: int, usual: int | None, *, whole: bool = False) -> Bools:
        """[nodes]: no ASCII character of a set is on the way, and beyond ASCII those of a usual class only,
        if any. whole: and the last one is complete.
        """
        inside = np.empty(self.low.size, dtype=np.bool_)
        for start in range(0, inside.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            foreign = self.low[part] & np.uint64(low)
            foreign |= self.high[part] & np.uint64(high)
            np.equal(foreign, 0, out=inside[part])
        if usual is None:
            inside &= self.ascii
        elif whole:
            inside &= self.states[usual] == _BETWEEN
        else:
            inside &= self.states[usual] != _DEAD
        return inside


class Runs:
    """Makes the runs of any class, over one trie. size: of the vocabulary."""

    def __init__(self, heads: Heads, trie: Nodes, size: int) -> None:
        self._heads = heads
        self._trie = trie
        self._size = size
        self._parent = np.full(trie.nodes, -1, dtype=np.int32)
        for above, level in pairwise(trie.levels):
            self._parent[level.start : level.stop] = level.parent + above.start
        self._by_byte = np.argsort(trie.byte.astype(np.uint8), kind="stable").astype(np.int32)
        self._starts = [0, *np.cumsum(np.bincount(trie.byte, minlength=256)).tolist()]
        self._node_of = np.full(size + 1, trie.nodes, dtype=np.int32)  # of each token; none is past the last
        ends = np.flatnonzero(trie.token_at >= 0)
        self._node_of[trie.token_at[ends]] = ends
        self._node_of[trie.alias] = self._node_of[trie.aliased]
        self._count = np.count_nonzero(self._node_of < trie.nodes)
        self._lengths = np.append(trie.characters, np.int32(0))[self._node_of]
        self._tables: dict[tuple[Edge, ...], NDArray[np.uint16]] = {}
        self._usual: dict[tuple[Edge, ...], int] = {}
        states: list[NDArray[np.uint8]] = []
        word, blank = matching(r"\w"), matching(r"\s")
        for ranges in (ANY, word, union((*word, *blank)), complement(blank), complement(ECMA_SPACE)):
            beyond = _beyond_ascii(heads.edges[heads.of_characters(ranges)])
            self._usual[beyond] = len(states)
            states.append(np.minimum(self._read((Edge(_ASCII, NO_HEAD, True), *beyond)), 2).astype(np.uint8))
        self._paths = self._find_paths(states)
        self._token_paths = self._paths.of(self._node_of)

    def _find_paths(self, states: list[NDArray[np.uint8]]) -> _Paths:
        """To every node, and to none, which is outside of all classes."""
        trie = self._trie
        low_of, high_of = np.zeros((2, trie.nodes + 1), dtype=np.uint64)
        ascii_of = np.zeros(trie.nodes + 1, dtype=np.bool_)
        low = high = np.zeros(1, dtype=np.uint64)
        ascii_only = np.ones(1, dtype=np.bool_)
        low_bits, high_bits = np.zeros((2, 256), dtype=np.uint64)  # of each byte
        low_bits[:64] = high_bits[64:128] = np.uint64(1) << np.arange(64, dtype=np.uint64)
        for level in trie.levels:
            here = slice(level.start, level.stop)
            low = low_of[here] = low[level.parent] | low_bits[level.byte]
            high = high_of[here] = high[level.parent] | high_bits[level.byte]
            ascii_only = ascii_of[here] = ascii_only[level.parent] & (level.byte < 0x80)
        return _Paths(low_of, high_of, ascii_of, states)

    def usual(self) -> list[tuple[bytes, NDArray[np.uint16]]]:
        """What the usual classes have beyond ASCII, as `utf8.packed`; and how they and ASCII are read. They
        are the first classes of their heads, so they are told alike over any others.
        """
        return [
            (packed_edges(beyond), self._table((Edge(_ASCII, NO_HEAD, True), *beyond)).copy())
            for beyond in self._usual
        ]

    def is_quick(self, head: int) -> bool:
        """Is the class gone through in less than a millisecond?"""
        return self._differs_in_ascii(self._heads.edges[head])

    def _differs_in_ascii(self, edges: tuple[Edge, ...]) -> bool:
        """Is the class made of ASCII characters, or does it differ in no others from a usual one?"""
        beyond = _beyond_ascii(edges)
        return not beyond or beyond in self._usual

    def of(self, head: int) -> Run:
        edges = self._heads.edges[head]
        first = sum(edge.mask for edge in edges)
        if self._differs_in_ascii(edges):
            usual = self._usual.get(_beyond_ascii(edges))
            others = ~first & _ASCII
            low, high = others & _WORD, others >> 64
            tokens = self._token_paths.inside(low, high, usual)

            def whole(nodes: Ints) -> Bools:
                return self._paths.of(nodes).inside(low, high, usual, whole=True)
        else:
            states = self._read(edges)
            between: Bools = states == _BETWEEN
            tokens = np.not_equal(states, _DEAD)[self._node_of]

            def whole(nodes: Ints) -> Bools:
                return between[nodes]

        return Run(
            size=self._size,
            tokens=tokens,
            lengths=self._lengths,
            longest=int(np.max(self._lengths * tokens)),
            large=bool(2 * np.count_nonzero(tokens) >= self._count),
            leaving=_BYTES & ~first,
            exits=partial(self._exits, whole),
            trie=self._trie,
        )

    def _exits(self, whole: Inside, byte: int) -> tuple[Ints, list[int]]:
        """Where a byte comes after characters of a class that are all complete: `whole` says which nodes are
        reached so.
        """
        nodes = self._by_byte[self._starts[byte] : self._starts[byte + 1]]
        parents = self._parent[nodes]
        here = whole(parents)
        here |= parents < 0
        nodes, parents = nodes[here], parents[here]
        lengths = np.where(parents < 0, np.int32(0), self._trie.characters[parents])
        order = np.argsort(lengths, kind="stable")
        return nodes[order], lengths[order].tolist()

    def _table(self, edges: tuple[Edge, ...]) -> NDArray[np.uint16]:
        """As `_transitions`, which takes longest beyond ASCII, where many classes are alike."""
        beyond = _beyond_ascii(edges)
        known = self._tables.get(beyond)
        if known is None:
            if len(self._tables) == _MOST_TABLES:
                self._tables.clear()
            known = self._tables[beyond] = _transitions(self._heads, beyond)
        table = known.copy()
        ascii_only = sum(edge.mask for edge in edges) & _ASCII
        table[_BETWEEN][bytes_of(ascii_only)] = _BETWEEN
        return table

    def _read(self, edges: tuple[Edge, ...]) -> NDArray[np.uint16]:
        """[nodes + 1]: the state in which each is reached when tokens are read as characters of a class."""
        table = self._table(edges).reshape(-1)
        trie = self._trie
        state_of = np.zeros(trie.nodes + 1, dtype=table.dtype)
        states = np.array([_BETWEEN], dtype=table.dtype)
        for level in trie.levels:
            states = table.take((states.astype(np.int32) << 8).take(level.parent) + level.byte)
            if not np.count_nonzero(states):
                break
            state_of[level.start : level.stop] = states
        return state_of


def _beyond_ascii(edges: tuple[Edge, ...]) -> tuple[Edge, ...]:
    return tuple(edge for edge in edges if edge.mask & ~_ASCII)


def _transitions(heads: Heads, edges: tuple[Edge, ...]) -> NDArray[np.uint16]:
    """[states, 256]: of reading one character after another, each of which begins with one of the edges."""
    numbers = {NO_HEAD: _BETWEEN}
    pending = [(_BETWEEN, edges)]
    rows = [np.full(256, _DEAD, dtype=np.uint16), np.full(256, _DEAD, dtype=np.uint16)]
    while pending:
        number, here = pending.pop()
        for edge in here:
            if edge.head not in numbers:
                numbers[edge.head] = len(rows)
                rows.append(np.full(256, _DEAD, dtype=np.uint16))
                pending.append((numbers[edge.head], heads.edges[edge.head]))
            rows[number][bytes_of(edge.mask)] = numbers[edge.head]
    return np.stack(rows)


def packed(allowed: Bools) -> Bits:
    """[size] bool as [words * 4] uint8: bit i % 8 of byte i // 8, in whole words of 32 bits."""
    bits = np.zeros((allowed.size + 31) // 32 * 4, dtype=np.uint8)
    bits[: (allowed.size + 7) // 8] = np.packbits(allowed, bitorder="little")
    return bits


def bits_of(tokens: list[int], size: int) -> Bits:
    """The same of some tokens, of which some may come twice; -1 is none."""
    bits = bytearray((size + 31) // 32 * 4)
    for token in tokens:
        if token >= 0:
            bits[token >> 3] |= 1 << (token & 7)
    return np.frombuffer(bits, dtype=np.uint8)


def bytes_of(mask: int) -> Bools:
    """[256]: a set of bytes as booleans."""
    bits = np.unpackbits(np.frombuffer(mask.to_bytes(32, "little"), dtype=np.uint8), bitorder="little")
    return bits.view(np.bool_)
