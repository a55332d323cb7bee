# SPDX-License-Identifier: Apache-2.0
"""`Descent`: from a handful of nodes down a trie in plain Python, where array operations would cost more than
the work they do.

It makes few states. A text is followed along the trie byte by byte, characters that change nothing (blanks,
those of a string) are passed over together, and what comes after a leaf is not asked for.
"""

from __future__ import annotations

from sgl_constrain.automaton import Automaton
from sgl_constrain.readings import PRODUCTS
from sgl_constrain.spreads import Spread, Spreads
from sgl_constrain.states import CONTINUATION, Plan, States
from sgl_constrain.texts import TEXTS
from sgl_constrain.trie import Nodes

_BLANKS = 1 << 0x09 | 1 << 0x0A | 1 << 0x0D | 1 << 0x20


class Descent:
    """What it has found since `begin`: tokens (-1 is none, and some may come twice); and inner nodes, with
    the states in which they are reached, times 256.
    """

    def __init__(self, automaton: Automaton, trie: Nodes, spreads: Spreads) -> None:
        assert isinstance(automaton.table, States), "the twin walks by itself"
        self._automaton = automaton
        self._states = automaton.table
        self._trie = trie
        self._spreads = spreads
        # Plain Python reads single elements several times faster from these than from arrays.
        self._first_child = trie.first_child.data
        self._child_count = trie.child_count.data
        self._token_at = trie.token_at.data
        self.begin()

    def begin(self) -> None:
        self.tokens: list[int] = []
        self.nodes: list[int] = []
        self.codes: list[int] = []

    def go_on(self) -> None:
        """Below the inner nodes found so far."""
        pending = zip(self.nodes, self.codes, strict=True)
        self.nodes, self.codes = [], []
        for node, code in pending:
            self.among(self._first_child[node], self._child_count[node], code >> 8)

    def among(self, first: int, count: int, state: int) -> None:
        """Below a node that is reached in `state`, of which first..first + count are the children."""
        items = self._states.all[state]
        if len(items) == 1 and TEXTS <= items[0] >> 32 < PRODUCTS:
            self._text(first, count, items[0] >> 32, items[0] & CONTINUATION)
            return
        children = self._trie.child_set(first, count)
        plan = self._states.plan(state)
        live = children & plan.begins
        if live & _BLANKS or plan.wide:
            stay = self._automaton.stay(state)
            spread = stay and live & stay.first and self._spreads.below(self._trie, first, count, stay.head)
            if stay and spread:
                self._past(spread, stay.most, state, plan)
                return
        if live:
            self._parts(first, children, live, state, plan)

    def ends(self, words: int, inside: int) -> list[int] | None:
        """The inner nodes at which a text of `words` ends that leads from `inside` to itself; None when what
        `inside` reads may end on the way elsewhere too.
        """
        states = self._states
        found: list[int] = []
        pending = [(0, self._trie.levels[0].stop, words, inside)]
        while pending:
            first, count, state, other = pending.pop()
            children = self._trie.child_set(first, count)
            for part, (mask, taken, text) in enumerate(states.plan(state).parts):
                common = mask & children
                while common:
                    bit = common & -common
                    common ^= bit
                    path = bytes([bit.bit_length() - 1]) + (self._path(text) if text else b"")
                    node, reached = self._follow(first, count, path, other, inside)
                    if reached is None:
                        return None
                    if node < 0 or not self._child_count[node]:
                        continue
                    target = (
                        states.after(self._rest(state, taken[0][0])) if text else states.target(state, part)
                    )
                    if reached == inside and states.accepts(target):
                        found.append(node)
                    pending.append((self._first_child[node], self._child_count[node], target, reached))
        return found

    def _follow(self, first: int, count: int, path: bytes, state: int, inside: int) -> tuple[int, int | None]:
        """The node to which a path leads, or -1, and the state, or None when that may end other than as
        `inside`.
        """
        node = -1
        for byte in path:
            node = self._trie.labels.find(byte, first, first + count)
            if node < 0:
                break
            first, count = self._first_child[node], self._child_count[node]
            state = self._states.step(state, byte)
            if state != inside and self._states.accepts(state):
                return node, None
        return node, state

    def _parts(self, first: int, children: int, live: int, state: int, plan: Plan) -> None:
        """live: those of the children on whose bytes to go on."""
        for part, (mask, taken, text) in enumerate(plan.parts):
            common = live & mask
            while common:
                bit = common & -common
                common ^= bit
                node = first + (children & bit - 1).bit_count()
                self.tokens.append(self._token_at[node])
                count = self._child_count[node]
                if not count:
                    continue
                if text:
                    self._text(self._first_child[node], count, text, self._rest(state, taken[0][0]))
                else:
                    self.nodes.append(node)
                    self.codes.append(self._states.target(state, part) << 8)

    def _past(self, spread: Spread, most: int, state: int, plan: Plan) -> None:
        """The same, where up to `most` characters of a class leave what can be read as it is."""
        self.tokens += spread.tokens.up_to(most)
        for part, (mask, taken, text) in enumerate(plan.parts):
            common = mask & spread.begins
            while common:
                bit = common & -common
                common ^= bit
                tokens, nodes = spread.after[bit]
                self.tokens += tokens.up_to(most)
                inner = nodes.up_to(most)
                if not inner:
                    continue
                if text:
                    rest = self._rest(state, taken[0][0])
                    for node in inner:
                        self._text(self._first_child[node], self._child_count[node], text, rest)
                else:
                    self.nodes += inner
                    self.codes += [self._states.target(state, part) << 8] * len(inner)

    def _path(self, head: int) -> bytes:
        """A text, or what is more of it than any path of the trie."""
        return self._automaton.texts.beginning(head, self._trie.depth + 1)

    def _rest(self, state: int, item: int) -> int:
        """What comes after an item of a state, counted without the one that says that the text may end."""
        items = self._states.all[state]
        return items[item + (items[0] == 0)] & CONTINUATION

    def _text(self, first: int, count: int, head: int, rest: int) -> None:
        """Follow a text, as long as there is more of the trie, and then go on with `rest`."""
        labels = self._trie.labels
        for byte in self._path(head):
            node = labels.find(byte, first, first + count)
            if node < 0:
                return
            self.tokens.append(self._token_at[node])
            count = self._child_count[node]
            if not count:
                return
            first = self._first_child[node]
        self.nodes.append(node)
        self.codes.append(self._states.after(rest) << 8)
