# SPDX-License-Identifier: Apache-2.0
"""Which tokens may come next: the automaton run over the whole trie at once, level by level.

A level is walked in one of three ways. *Dense*: every node, as one gather, while much of the level lives.
*Sparse*: the living nodes only, as arrays. *Plain*: a handful of nodes in plain Python, where an array
operation would cost more than the work it does. All three give the same answer; only the order of effort
differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from sgl_constrain.automaton import Automaton
from sgl_constrain.descent import Descent
from sgl_constrain.readings import Excluding, Exit, Reading
from sgl_constrain.runs import Run, bits_of, bytes_of, packed
from sgl_constrain.slices import SPACE, Slice
from sgl_constrain.spreads import Spreads
from sgl_constrain.tails import Tails
from sgl_constrain.trie import Bits, Bools, Ints, Nodes

_FEW = 96  # tokens up to which their bits are set one by one
_PLAIN = 32  # living nodes up to which plain Python is faster than arrays
_PLAIN_WORK = 128  # children to look at up to which plain Python is faster
_POSITIONS = 4096  # sets of bytes of which the positions are remembered
_ON_THE_WAY = 256  # nodes up to which the ways of some texts through the trie are followed one by one
_SINGLE = 4  # transitions of a state up to which they are made one by one
_SPACE = 1 << SPACE
_DENSE = 4  # a level is walked whole while more than 1 / _DENSE of it lives

# Rows hold states times 256, ready to be added to a byte. 0: not known yet. DEAD is written as row 1, which
# leads only to itself; the automaton's own state 1 (DONE) is never entered by a byte.
_UNKNOWN = 0
_SINK = 1 << 8
_FIRST_ROWS = 32  # of which most grammars need no more; clearing the memory is part of the first mask


class Rows:
    """Transitions as a matrix [states, 256], each row filled in when a walk first needs it."""

    def __init__(self, automaton: Automaton) -> None:
        self._automaton = automaton
        self._positions_of: dict[int, Ints] = {}  # of sets of bytes: they come again and again
        self._drop()

    def _drop(self) -> None:
        self.matrix = np.empty((0, 256), dtype=np.int32)  # many first masks need none
        self._filled: set[int] = set()

    def trim(self) -> None:
        """Drop everything when it is too much; not during a walk, which needs the rows of a whole
        level together.
        """
        if len(self._filled) > self._automaton.limits.rows:
            self._drop()

    @property
    def nbytes(self) -> int:
        """Filled or not: memory that was used before is cleared, and so held, whole."""
        return self.matrix.nbytes

    def _positions(self, mask: int) -> Ints:
        known = self._positions_of.get(mask)
        if known is None:
            if len(self._positions_of) > _POSITIONS:
                self._positions_of.clear()
            known = self._positions_of[mask] = np.flatnonzero(bytes_of(mask)).astype(np.int32)
        return known

    def make_room(self) -> None:
        """A row, filled or not, for every state there is: what a walk is about to look up."""
        needed = len(self._automaton.states)
        if needed > self.matrix.shape[0]:
            old, filled = self.matrix, sorted(self._filled)
            self.matrix = np.zeros((max(needed, 2 * old.shape[0], _FIRST_ROWS), 256), dtype=np.int32)
            self.matrix[1] = _SINK
            self.matrix[filled] = old[filled]
            self.flat = self.matrix.reshape(-1)

    def fill(self, wanted: Ints) -> None:
        """Make the single transitions `wanted`, [n] states times 256 plus byte, or whole rows if not
        many more.
        """
        states = sorted(set((wanted >> 8).tolist()))
        if wanted.size > _SINGLE * len(states):
            self.require(states)
            return
        step = self._automaton.step
        made = [step(code >> 8, code & 255) << 8 or _SINK for code in wanted.tolist()]
        self.make_room()
        self.flat[wanted] = made
        self._filled.update(states)

    def require(self, states: list[int]) -> None:
        """Fill the rows of `states`, and make room for every state they lead to."""
        rows = [(state, self._automaton.moves(state)) for state in states]
        self.make_room()
        for state, moves in rows:
            row = self.matrix[state]
            row[:] = _SINK
            for mask, target in moves:
                row[self._positions(mask)] = target << 8
        self._filled.update(states)


class Walk:
    """Walks one trie with one automaton. `allowed(state)` is a pure function; what is kept only
    saves time.
    """

    def __init__(self, automaton: Automaton, rows: Rows, trie: Nodes, spreads: Spreads) -> None:
        self._automaton = automaton
        self._rows = rows
        self._trie = trie
        self._spreads = spreads
        self._descent = Descent(automaton, trie, spreads)
        self._child_count = trie.child_count.data

    def mark(self, state: int, allowed: Bools) -> None:
        """Set `allowed`, [vocabulary size + 1], for the tokens of the trie that may come next; the last
        element is
        scratch. Other tokens are left as they are."""
        if self._trie.levels:
            if self._live_bytes(state) <= _PLAIN:
                self._begin(state)
                self._finish(allowed)
            else:
                self._go_on(*self._inner(*self._dense(state, allowed)), allowed)
            allowed[self._trie.alias] = allowed[self._trie.aliased]

    def bits(self, state: int, size: int) -> Bits:
        """[words * 4]: the tokens of the trie that may come next, in a vocabulary of `size`."""
        trie = self._trie
        if trie.alias.size or not trie.levels or self._live_bytes(state) > _PLAIN:
            allowed = np.zeros(size + 1, dtype=np.bool_)
            self.mark(state, allowed)
            return packed(allowed[:-1])
        self._begin(state)
        descent = self._descent
        while descent.nodes and len(descent.tokens) <= _FEW and self._is_little(descent.nodes, descent.codes):
            descent.go_on()
        if not descent.nodes and len(descent.tokens) <= _FEW:
            return bits_of(descent.tokens, size)
        allowed = np.zeros(size + 1, dtype=np.bool_)
        self._finish(allowed)
        return packed(allowed[:-1])

    def _begin(self, state: int) -> None:
        self._descent.begin()
        self._descent.among(0, self._trie.levels[0].stop, state)

    def _finish(self, allowed: Bools) -> None:
        """What has begun."""
        allowed[self._descent.tokens] = True
        self._go_on(self._descent.nodes, self._descent.codes, allowed)

    def ends(self, words: int, inside: int) -> list[int] | None:
        """As of `Descent`."""
        return self._descent.ends(words, inside) if self._trie.levels else []

    def mark_below(self, nodes: list[int], state: int, allowed: Bools) -> None:
        """The same for the tokens that go on from inner nodes that are reached in `state`."""
        self._go_on(nodes, [state << 8] * len(nodes), allowed)
        allowed[self._trie.alias] = allowed[self._trie.aliased]

    def mark_after(self, run: Run, exits: Iterable[Exit], allowed: Bools, skip: int = -1) -> None:
        """The same for the tokens that leave a run, other than at the node `skip`."""
        nodes: list[int] = []
        codes: list[int] = []
        for least, most, state in exits:
            for mask, target in self._automaton.moves_on(state, run.leaving):
                for bit in _bits(mask):
                    here = run.after(bit.bit_length() - 1, least, most)
                    tails = run.tails(bit.bit_length() - 1)
                    if tails and least <= tails.least and tails.most <= most and (bit != _SPACE or skip < 0):
                        self._mark_tails(tails, target, allowed)
                        continue
                    if bit == _SPACE and not least and skip >= 0:
                        here = here[here != skip]
                    nodes += here.tolist()
                    codes += [target << 8] * here.size
        if nodes:
            allowed[self._trie.token_at[nodes]] = True
            self._go_on(*self._inner(np.array(nodes, np.int32), np.array(codes, np.int32)), allowed)
        allowed[self._trie.alias] = allowed[self._trie.aliased]

    def _mark_tails(self, tails: Tails, state: int, allowed: Bools) -> None:
        allowed[tails.alone] = True
        found = np.zeros(tails.trie.nodes + 1, dtype=np.bool_)
        Walk(self._automaton, self._rows, tails.trie, self._spreads).mark(state, found)
        allowed[tails.tokens[found.take(tails.nodes)]] = True

    def _go_on(self, nodes: list[int] | Ints, codes: list[int] | Ints, allowed: Bools) -> None:
        """Down to the leaves from inner `nodes`, whose tokens are marked, in the states of `codes`."""
        descent = self._descent
        while len(nodes):
            if self._is_little(nodes, codes):
                descent.tokens, descent.nodes, descent.codes = [], _as_list(nodes), _as_list(codes)
                descent.go_on()
                while descent.nodes and self._is_little(descent.nodes, descent.codes):
                    descent.go_on()
                allowed[descent.tokens] = True
                nodes, codes = descent.nodes, descent.codes
            else:
                nodes, codes = self._sparse_step(
                    np.asarray(nodes, np.int32), np.asarray(codes, np.int32), allowed
                )

    def _is_little(self, nodes: list[int] | Ints, codes: list[int] | Ints) -> bool:
        """Is there so little to do below that arrays are not worth it?"""
        if len(nodes) > _PLAIN:
            return False
        nodes, codes = _as_list(nodes), _as_list(codes)
        child_count = self._child_count
        if sum([child_count[node] for node in nodes]) <= _PLAIN_WORK:
            return True
        work = 0
        for node, code in zip(nodes, codes, strict=True):
            work += min(child_count[node], self._live_bytes(code >> 8))
        return work <= _PLAIN_WORK

    def _inner(self, nodes: Ints, codes: Ints) -> tuple[Ints, Ints]:
        """Without the leaves, which go no further."""
        inner = self._trie.child_count.take(nodes).nonzero()[0]
        return nodes.take(inner), codes.take(inner)

    def _live_bytes(self, state: int) -> int:
        return self._automaton.begins(state).bit_count()

    def _advance(self, codes: Ints, byte: Ints) -> Ints:
        """One transition of every code in `codes`, each on its own byte."""
        self._rows.make_room()
        index = codes + byte
        found = self._rows.flat.take(index)
        while np.count_nonzero(found) != found.size:
            self._rows.fill(_distinct(index[found == _UNKNOWN]))
            found = self._rows.flat.take(index)
        return found

    def _dense(self, state: int, allowed: Bools) -> tuple[Ints, Ints]:
        """Whole levels from the root down; returns the living nodes of the first level that is
        mostly dead.
        """
        self._rows.require([state])
        codes: Ints = np.full(1, state << 8, dtype=np.int32)
        nodes: Ints = np.empty(0, dtype=np.int32)
        for level in self._trie.levels:
            codes = self._advance(codes.take(level.parent), level.byte)
            living = codes > _SINK
            allowed[level.token] = living[level.token_node]
            if np.count_nonzero(living) * _DENSE <= codes.size:
                nodes = np.flatnonzero(living).astype(np.int32)
                return nodes + np.int32(level.start), codes[nodes]
        return nodes, codes

    def _sparse_step(self, nodes: Ints, codes: Ints, allowed: Bools) -> tuple[Ints, Ints]:
        """The living inner children of `nodes`, with the tokens of all living ones marked."""
        trie = self._trie
        counts = trie.child_count.take(nodes)
        before = counts.cumsum(dtype=np.int32) - counts
        below = (trie.first_child.take(nodes) - before).repeat(counts)
        below += np.arange(below.size, dtype=np.int32)
        found = self._advance(codes.repeat(counts), trie.byte.take(below))
        living = (found > _SINK).nonzero()[0]
        below = below.take(living)
        allowed[trie.token_at.take(below)] = True
        return self._inner(below, found.take(living))


class Walks:
    """The masks of one automaton over one vocabulary, [words * 4] uint8: the tokens whose text may come next.

    In three ways, for three kinds of state; what each of them needs to know is `Grammar`'s to find out.
    """

    def __init__(
        self, automaton: Automaton, trie: Nodes, size: int, spreads: Spreads, rows: Rows | None = None
    ) -> None:
        self._automaton = automaton
        self._trie = trie
        self._size = size
        self._spreads = spreads
        self._rows = rows or Rows(automaton)
        self._whole = Walk(automaton, self._rows, trie, spreads)
        self._rests: dict[Nodes, Walk] = {}

    def over(self, trie: Nodes) -> Walks:
        """The same over other tokens of the vocabulary."""
        return Walks(self._automaton, trie, self._size, self._spreads, self._rows)

    def is_spread(self, state: int) -> bool:
        """Does a state read over and over what not much of the trie consists of?"""
        stay = self._automaton.stay(state)
        if stay is None or not self._automaton.reads(stay.head, SPACE) or not self._trie.levels:
            return False
        return self._spreads.below(self._trie, 0, self._trie.levels[0].stop, stay.head) is not None

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    def whole(self, state: int) -> Bits:
        """Every token, from the root of the trie."""
        self._rows.trim()
        return self._whole.bits(state, self._size)

    def excluded(self, reading: Excluding) -> Bits | None:
        """The tokens in which one of the words ends, and that go on with what comes after it; None when there
        may be others that do not end so in one way only.
        """
        nodes = self._whole.ends(reading.words, reading.inside)
        if nodes is None:
            return None
        self._rows.trim()
        allowed = np.zeros(self._size + 1, dtype=np.bool_)
        self._whole.mark_below(nodes, reading.after, allowed)
        return packed(allowed[:-1])

    def beside(self, part: Slice, state: int) -> Bits:
        """The tokens of a slice, and of the others those that the walk finds."""
        walk = self._rests.get(part.trie)
        if walk is None:
            walk = self._rests[part.trie] = Walk(self._automaton, self._rows, part.trie, self._spreads)
        self._rows.trim()
        allowed = part.allowed.copy()
        walk.mark(state, allowed)
        return packed(allowed[:-1])

    def after(self, run: Run, reading: Reading, skip: int = -1) -> Bits:
        """Runs, and what can be read after them, other than through the node `skip`."""
        self._rows.trim()
        allowed = run.tokens_up_to(reading.most)
        self._whole.mark_after(run, reading.exits, allowed, skip)
        return packed(allowed[:-1])


def states_on_the_way(automaton: Automaton, trie: Nodes, state: int) -> list[int] | None:
    """The states in which tokens, and their beginnings, leave `state`; None when they are many, or not all
    between two characters.
    """
    byte, first_child, child_count = trie.byte.data, trie.first_child.data, trie.child_count.data
    found: list[int] = []
    pending = [(state, 0, trie.levels[0].stop)] if trie.levels else []
    while pending:
        current, first, count = pending.pop()
        reads = sum(mask for mask, _ in automaton.moves(current))
        for child in range(first, first + count) if reads else ():
            if reads >> byte[child] & 1:
                if byte[child] >= 0x80 or len(found) == _ON_THE_WAY:
                    return None
                found.append(automaton.step(current, byte[child]))
                if child_count[child]:
                    pending.append((found[-1], first_child[child], child_count[child]))
    return found


def _distinct(values: Ints) -> Ints:
    """As `np.unique`, which imports a large module when it is first called."""
    values = np.sort(values)
    fresh = np.ones(values.size, dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=fresh[1:])
    return values[fresh]


def _as_list(values: Ints | list[int]) -> list[int]:
    return values if isinstance(values, list) else values.tolist()


def _bits(mask: int) -> Iterator[int]:
    """The single bits of a set, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit
        mask ^= bit
