# SPDX-License-Identifier: Apache-2.0
"""What is known of a vocabulary before any grammar: which of its tokens, and which nodes of its trie, consist
of characters of one class.

Two kinds of state are walked with that knowledge instead of from the root. Inside a string nearly every token
is allowed, for the same reason in every string of every grammar: it consists of characters of the string's
class. Those tokens are set at once (the *slice*), and what is left to walk is the trie of the others. And a
state that reads a run of blanks, and then something that does not begin with a blank, is walked from the end
of every run there is (`Run`), without a state for each length.

The usual classes are gone through when the vocabulary is made, others when they are met for the second time.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sgl_constrain.codepoints import ANY, ASCII_DIGIT, NOT_NEWLINE, complement, matching, prepare, union
from sgl_constrain.expression import ENDLESS
from sgl_constrain.trie import Bits, Bools, Ints, Nodes
from sgl_constrain.utf8 import NO_HEAD, Heads

_MOST = 32  # slices, and classes, kept: those used least recently are forgotten
_LARGE = 2  # a class has slices when 1 / _LARGE of the trie's nodes are inside
_SHORTEST = 8  # characters from which on a bounded repetition has a slice
_RUN_NODES = 2048  # nodes inside a class up to which it has a `Run`
_DEAD, _BETWEEN = 0, 1  # states of a class: left it, between two of its characters; others are inside of one

_UNESCAPED = complement(((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C)))
_BLANK = ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20))


class Slice(NamedTuple):
    allowed: Bools  # [size + 1], as of `Walk`: tokens inside the class
    packed: Bits  # the same as a bitmask
    trie: Nodes  # all other tokens


@dataclass(frozen=True)
class Run:
    """The runs of one class that tokens begin with, shortest first, and where a walk goes on after them.

    `tokens` are runs as a whole, up to a last character that may be incomplete; `lengths` are their
    characters. `after[byte]`: children, reached by `byte`, of the root (length 0) and of the nodes that are
    runs; and the lengths of those runs.
    """

    tokens: list[int]
    lengths: list[int]
    after: dict[int, tuple[list[int], list[int]]]
    _masks: dict[int, Bits] = field(default_factory=dict)

    def tokens_up_to(self, times: int) -> list[int]:
        """The tokens that are runs of at most `times` characters."""
        return self.tokens if times == ENDLESS else self.tokens[: bisect_right(self.lengths, times)]

    def packed_up_to(self, times: int, size: int) -> Bits:
        """The same as a bitmask of a vocabulary of `size` tokens: not to be changed."""
        count = len(self.tokens_up_to(times))
        mask = self._masks.get(count)
        if mask is None:
            allowed = np.zeros(size, dtype=np.bool_)
            allowed[self.tokens[:count]] = True
            mask = self._masks[count] = packed(allowed)
        return mask

    def after_up_to(self, times: int, byte: int) -> list[int]:
        """The nodes that `byte` leads to after runs of at most `times` characters."""
        nodes, lengths = self.after.get(byte, _NOWHERE)
        return nodes if times == ENDLESS else nodes[: bisect_right(lengths, times)]


_NOWHERE: tuple[list[int], list[int]] = ([], [])


class _Class(NamedTuple):
    allowed: Bools  # [size + 1]: tokens inside the class
    inside: Bools  # [nodes]: those of the class's characters alone, of which the last may be incomplete
    large: bool
    longest: int  # how many characters a token inside the class has at most
    run: Run | None


class Slices:
    """The classes of one vocabulary, for every grammar. Thread-safe.

    `heads` numbers the classes. size: the vocabulary's. nodes: the trie of its tokens.
    """

    def __init__(self, nodes: Nodes, size: int) -> None:
        self.heads = Heads()
        self._nodes = nodes
        self._size = size
        self._lock = threading.Lock()
        self._classes: OrderedDict[int, _Class | None] = OrderedDict()
        self._slices: OrderedDict[tuple[int, int], Slice | None] = OrderedDict()
        prepare()
        for ranges in (_BLANK, ASCII_DIGIT):
            self._prepare(self.heads.of_characters(ranges), ())
        word, blank = matching(r"\w"), matching(r"\s")
        for ranges in (ANY, NOT_NEWLINE, word, union((*word, *blank))):
            self._prepare(self.heads.of_characters(ranges), (ENDLESS,))
        self._prepare(self.heads.of_characters(_UNESCAPED), (ENDLESS, 32, 16))

    def __reduce__(self) -> tuple[type[Slices], tuple[Nodes, int]]:
        return Slices, (self._nodes, self._size)

    def of(self, head: int, times: int) -> Slice | None:
        """The slice of the tokens inside `head{0,times}`, or of as many of them as is worth it; None when the
        class is small or met for the first time, or `times` is small.
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
        """The runs of `head`; None when there are very many, or the class is met for the first time."""
        with self._lock:
            known = self._class(head)
            return None if known is None else known.run

    def _prepare(self, head: int, times: tuple[int, ...]) -> None:
        if self._nodes.nodes and head not in self._classes:
            known = self._classes[head] = self._go_through(head)
            for n in times if known.large else ():
                if n == ENDLESS or n < known.longest:
                    self._slices[head, n] = self._cut(known, n)

    def _class(self, head: int) -> _Class | None:
        if head not in self._classes:
            known = None
        else:
            known = self._classes.pop(head) or self._go_through(head)
        self._classes[head] = known
        if len(self._classes) > _MOST:
            self._classes.popitem(last=False)
        return known

    def _slice(self, head: int, known: _Class, times: int) -> Slice | None:
        key = head, times
        if key not in self._slices:
            part = None if times != ENDLESS else self._cut(known, times)
        else:
            part = self._slices.pop(key) or self._cut(known, times)
        self._slices[key] = part
        if len(self._slices) > _MOST:
            self._slices.popitem(last=False)
        return part

    def _cut(self, known: _Class, times: int) -> Slice:
        trie = self._nodes
        if times == ENDLESS:
            allowed = known.allowed
        else:
            allowed = self._tokens(known.inside & (trie.characters <= times))
        return Slice(allowed, packed(allowed[:-1]), trie.without(allowed))

    def _tokens(self, nodes: Bools) -> Bools:
        """The tokens that end at some of the nodes."""
        allowed = np.zeros(self._size + 1, dtype=np.bool_)
        allowed[self._nodes.token_at[nodes]] = True
        allowed[-1] = False  # where `token_at` is -1
        allowed[self._nodes.alias] = allowed[self._nodes.aliased]
        return allowed

    def _go_through(self, head: int) -> _Class:
        """Read every token as a string of characters of `head`, level by level."""
        table = _transitions(self.heads, head)
        trie = self._nodes
        state_of = np.zeros(trie.nodes, dtype=table.dtype)
        states = np.array([_BETWEEN], dtype=table.dtype)
        for level in trie.levels:
            states = table.take((states.astype(np.int32) << 8).take(level.parent) + level.byte)
            if not np.count_nonzero(states):
                break
            state_of[level.start : level.stop] = states
        inside = state_of != _DEAD
        count = int(np.count_nonzero(inside))
        tokens = self._tokens(inside)
        longest = int(np.max(trie.characters, where=inside & (trie.token_at >= 0), initial=0))
        run = None
        if 0 < count <= _RUN_NODES:
            nodes = np.flatnonzero(inside)
            run = self._run(nodes.astype(np.int32), state_of[nodes] == _BETWEEN)
        return _Class(tokens, inside, count * _LARGE >= trie.nodes, longest, run)

    def _run(self, nodes: Ints, whole: Bools) -> Run:
        trie = self._nodes
        order = np.argsort(trie.characters[nodes], kind="stable")
        nodes, whole = nodes[order], whole[order]
        inside = set(nodes.tolist())
        of_token: dict[int, list[int]] = {}
        for alias, token in zip(trie.alias.tolist(), trie.aliased.tolist(), strict=True):
            of_token.setdefault(token, []).append(alias)
        tokens: list[int] = []
        lengths: list[int] = []
        after: dict[int, tuple[list[int], list[int]]] = {}
        roots = trie.levels[0].stop if trie.levels else 0
        for complete, first, count, length, token in [
            (True, 0, roots, 0, -1),
            *zip(
                whole.tolist(),
                trie.first_child[nodes].tolist(),
                trie.child_count[nodes].tolist(),
                trie.characters[nodes].tolist(),
                trie.token_at[nodes].tolist(),
                strict=True,
            ),
        ]:
            if token >= 0:
                ids = [token, *of_token.get(token, ())]
                tokens += ids
                lengths += [length] * len(ids)
            for child in range(first, first + count if complete else first):
                if child not in inside:
                    below, known_lengths = after.setdefault(int(trie.byte[child]), ([], []))
                    below.append(child)
                    known_lengths.append(length)
        return Run(tokens, lengths, after)


def _transitions(heads: Heads, head: int) -> NDArray[np.uint16]:
    """[states * 256]: of reading one character of `head` after another."""
    numbers = {NO_HEAD: _BETWEEN}
    pending = [head]
    rows = [np.full(256, _DEAD, dtype=np.uint16), np.full(256, _DEAD, dtype=np.uint16)]
    while pending:
        current = pending.pop()
        row = rows[_BETWEEN if current == head else numbers[current]]
        for edge in heads.edges[current]:
            if edge.head not in numbers:
                numbers[edge.head] = len(rows)
                rows.append(np.full(256, _DEAD, dtype=np.uint16))
                pending.append(edge.head)
            row[bytes_of(edge.mask)] = numbers[edge.head]
    return np.concatenate(rows)


def packed(allowed: Bools) -> Bits:
    """[size] bool as [words * 4] uint8: bit i % 8 of byte i // 8, in whole words of 32 bits."""
    bits = np.zeros((allowed.size + 31) // 32 * 4, dtype=np.uint8)
    bits[: (allowed.size + 7) // 8] = np.packbits(allowed, bitorder="little")
    return bits


def bytes_of(mask: int) -> Bools:
    """[256]: a set of bytes as booleans."""
    bits = np.unpackbits(np.frombuffer(mask.to_bytes(32, "little"), dtype=np.uint8), bitorder="little")
    return bits.view(np.bool_)
