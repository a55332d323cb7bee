# SPDX-License-Identifier: Apache-2.0
"""How a state reads characters of one class: up to how many, and what else can be read after how many.

Where nothing else begins like a character of the class, that says everything about the state, without a state
for each number of characters. It is told from the items alone: a repetition of the class has its counts in
the continuation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import pairwise
from typing import Final, NamedTuple, cast

from sgl_constrain.expression import EMPTY, ENDLESS, FAR, Character, Expressions, Repeat, Words
from sgl_constrain.texts import TEXTS
from sgl_constrain.twin import Sequenced

PRODUCTS: Final = 1 << 30  # heads from here on are products

_NO_END = FAR  # of a run of characters that may go on for ever
_MOST_POINTS = 8  # at which what else can be read changes
_CONTINUATION = (1 << 32) - 1  # of an item: its head stands above
_ACCEPT = 0  # the item that says the text may end
_TAIL_BYTES = ((1 << 64) - 1) << 0x80


class Exit(NamedTuple):
    """After least..most characters of a class, what does not belong to it is what `state` reads."""

    least: int
    most: int
    state: int


class Reading(NamedTuple):
    """Up to `most` characters of a class, and what else can be read after how many of them."""

    head: int
    most: int
    exits: tuple[Exit, ...]


class Stay(NamedTuple):
    """Up to `most` characters of a class leave what else a state reads as it is. first: bytes with which they
    begin.
    """

    head: int
    first: int
    most: int


class Excluding(NamedTuple):
    """What a state reads: any text that `inside` reads but those of `words`, and then what `after` reads; or
    what `others` reads. `plain` reads the first of these with `words` too.
    """

    inside: int
    words: int
    after: int
    plain: int
    others: int


class _Way(NamedTuple):
    """After least..most characters of a class one can go on with the items `after`."""

    least: int
    most: int
    after: tuple[int, ...]


class Readings:
    """Of one automaton's states. continuations: (expression, rest) by number, as the automaton adds to them;
    first: the set of bytes with which a head begins; closure: the items with which a continuation may begin;
    number: that of the state with some items.
    """

    def __init__(
        self,
        expressions: Expressions,
        continuations: Sequenced[tuple[int, int]],
        *,
        first: Callable[[int], int],
        closure: Callable[[int], tuple[int, ...]],
        number: Callable[[Collection[int]], int],
    ) -> None:
        self._expressions = expressions
        self._continuations = continuations
        self._first = first
        self._closure = closure
        self._number = number

    def of(self, items: tuple[int, ...]) -> Reading | None:
        """None where there is no class that is read over and over, or what else is read begins like it."""
        head = self.repeated(items)
        if head is None:
            return None
        others = tuple([item for item in items if item >> 32 != head])
        ways = [self._way(item) for item in items if item >> 32 == head]
        if others:
            ways.append(_Way(0, 0, others))
        first = self._first(head)
        points = {0}
        for least, most, after in ways:
            if not all(self._begins_otherwise(item, first) for item in after):
                return None
            points.update((least, most + 1))
        if len(points) > _MOST_POINTS:
            return None
        exits: list[Exit] = []
        before: set[int] = set()
        for low, beyond in pairwise(sorted(points)):
            here: set[int] = set()
            for least, most, after in ways:
                if least <= low <= most:
                    here.update(after)
            here.discard(_ACCEPT)
            if here and here == before:
                exits[-1] = exits[-1]._replace(most=beyond - 1)
            elif here:
                exits.append(Exit(low, beyond - 1, self._number(here)))
            before = here
        return Reading(head, max([way.most for way in ways]), tuple(exits))

    def repeated(self, items: tuple[int, ...]) -> int | None:
        """The largest class that a state reads over and over; None when there is a product in the state."""
        best: int | None = None
        if not items or items[-1] >> 32 >= PRODUCTS:
            return None
        size = 0
        for item in items:
            head = item >> 32
            if head < TEXTS and head != best and self._is_repeated(item):
                first = self._first(head)
                if not first & _TAIL_BYTES and first.bit_count() > size:
                    best, size = head, first.bit_count()
        return best

    def stay(self, items: tuple[int, ...]) -> Stay | None:
        """None where already one character of any class changes what else can be read."""
        head = self.repeated(items)
        if head is None:
            return None
        first = self._first(head)
        others: set[int] = set()
        after: set[int] = set()
        most = 0
        for item in items:
            if item >> 32 != head:
                if self._first(item >> 32) & first:
                    return None
                others.add(item)
                continue
            expression, rest = self._continuations[item & _CONTINUATION]
            node = self._expressions.nodes[expression]
            if type(node) is not Repeat or node.least:
                return None
            times = _NO_END if node.most == ENDLESS else node.most + 1
            if most and times != most:
                return None
            most = times
            if type(self._expressions.nodes[node.body]) is Character:
                after.update(self._closure(rest))
            elif times == _NO_END and item in self._closure(item & _CONTINUATION):
                after.update(self._closure(item & _CONTINUATION))
                after.discard(item)
            else:
                return None
        return Stay(head, first, most) if after == others else None

    def comes_back(self, items: tuple[int, ...]) -> bool:
        """Does a state read any number of characters of a class, and whatever else it reads, itself is what
        follows?
        """
        stay = self.stay(items)
        if stay is None or stay.most != _NO_END:
            return False
        again = next(item & _CONTINUATION for item in items if item >> 32 == stay.head)
        return all(self._leads(item & _CONTINUATION, again) for item in items if item != _ACCEPT)

    def _leads(self, continuation: int, to: int) -> bool:
        while continuation != to and continuation:
            continuation = self._continuations[continuation][1]
        return continuation == to

    def is_words(self, items: tuple[int, ...]) -> bool:
        """Does a state read a few texts and nothing else?"""
        return all(item >> 32 < PRODUCTS and self._is_word(item & _CONTINUATION) for item in items)

    def _is_word(self, continuation: int) -> bool:
        if not continuation:
            return True
        expression, rest = self._continuations[continuation]
        node = self._expressions.nodes[expression]
        if type(node) is not Words or rest:
            return False
        return set(self._expressions.tables[node.table].follow[node.low : node.high]) == {EMPTY}

    def _is_repeated(self, item: int) -> bool:
        rest = item & _CONTINUATION
        node = self._expressions.nodes[self._continuations[rest][0]]
        if type(node) is not Repeat:
            return False
        body = self._expressions.nodes[node.body]
        if type(body) is Character:
            return body.head == item >> 32
        return node.least == 0 and node.most == ENDLESS and item in self._closure(rest)

    def _begins_otherwise(self, item: int, first: int) -> bool:
        head = item >> 32
        return head < PRODUCTS and not self._first(head) & first

    def _way(self, item: int) -> _Way:
        """How characters of an item's head are read, and what then."""
        rest = item & _CONTINUATION
        if not self._is_repeated(item):
            return _Way(1, 1, self._closure(rest))
        expression, after = self._continuations[rest]
        node = cast(Repeat, self._expressions.nodes[expression])
        if type(self._expressions.nodes[node.body]) is not Character:
            return _Way(1, _NO_END, tuple([other for other in self._closure(rest) if other != item]))
        most = _NO_END if node.most == ENDLESS else node.most + 1
        return _Way(node.least + 1, most, self._closure(after))
