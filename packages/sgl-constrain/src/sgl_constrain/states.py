# SPDX-License-Identifier: Apache-2.0
"""States: what can be read next, as a sorted tuple of items; and the states after them, made one at a time
when they are first needed.

A state's *plan* says which edges of its items are taken on which bytes. It depends on the items' heads alone,
so most states find theirs made. What reads a text and nothing else can be followed without a state for each
of its bytes. Knows nothing of expressions: what may be read after an edge is asked of
the automaton.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, NamedTuple

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.limits import Limits
from sgl_constrain.readings import PRODUCTS
from sgl_constrain.texts import TEXTS
from sgl_constrain.utf8 import NO_HEAD, Edge

DEAD: Final = 0  # no continuation of the text is in the language
DONE: Final = 1  # the text has ended: an end token was taken
ACCEPT: Final = 0  # the item that says the text may end
CONTINUATION: Final = (1 << 32) - 1  # of an item: its head stands above

_ITEMS_PER_STATE = 5  # in all: `limits.states` of this size are as many as there may be
_WIDE = 32  # bytes with which a class begins that is often read over and over

Moves = tuple[tuple[int, int], ...]  # disjoint (set of bytes, state); bytes in none of the sets lead to DEAD
# An edge that is taken: the place of its item in a state, and `(head after it << 1 | complete) << 32`.
Taken = tuple[tuple[int, int], ...]


class Plan(NamedTuple):
    """parts: disjoint (set of bytes, edges taken on each of them, head of the text that is all there is to
    read after it, or NO_HEAD), of which none leads to DEAD; begins: their bytes; wide: these are many.
    """

    parts: tuple[tuple[int, Taken, int], ...]
    begins: int
    wide: bool


_NO_PLAN: Final = Plan((), 0, False)


class States:
    """The states of one automaton, by number. all: their items.

    edges: of a head; product_items: of a product's head and what comes after it; closure: the items with
    which a continuation may begin; uncovered: those items that no other makes superfluous; check: the limits
    of size and time.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        edges: Callable[[int], tuple[Edge, ...]],
        product_items: Callable[[int, int], Collection[int]],
        closure: Callable[[int], Collection[int]],
        uncovered: Callable[[Collection[int]], Collection[int]],
        check: Callable[[int], None],
    ) -> None:
        self.all: list[tuple[int, ...]] = [(), (ACCEPT,)]
        self._limits = limits
        self._edges = edges
        self._product_items = product_items
        self._closure = closure
        self._uncovered = uncovered
        self._check = check
        self._held = 0
        self._numbers: dict[tuple[int, ...], int] = {(): DEAD}
        self._moves: list[Moves | None] = [(), ()]  # by state; None: not asked for yet
        self._opened: list[Plan | None] = [_NO_PLAN, _NO_PLAN]  # by state; None: not asked for yet
        self._places: list[int] = [0, 0]  # of each opened state's first part in
        self._made: list[int | None] = []  # the targets of all; None where not made yet
        self._plans: dict[tuple[int, ...], Plan] = {}  # by the heads of a state's items
        self._targets: dict[tuple[int, ...], int] = {}  # by edges taken, with the continuations after them

    def held(self) -> int:
        """How many items all states have together."""
        return self._held

    def number(self, items: Collection[int]) -> int:
        """Of the state with these items, which are distinct."""
        kept = tuple(sorted(self._uncovered(items) if len(items) > 1 else items))
        number = self._numbers.get(kept)
        if number is None:
            admit(self._limits, len(self.all), self._held + len(kept))
            self._check(len(kept))
            self._held += len(kept)
            self.all.append(kept)
            self._moves.append(None)
            self._opened.append(None)
            self._places.append(0)
            number = self._numbers[kept] = len(self.all) - 1
        return number

    def accepts(self, state: int) -> bool:
        items = self.all[state]
        return bool(items) and items[0] == ACCEPT

    def moves(self, state: int) -> Moves:
        known = self._moves[state]
        if known is None:
            known = self._moves[state] = self._compute_moves(state)
        return known

    def step(self, state: int, byte: int) -> int:
        """The state after one byte: no other target of the state is made."""
        bit = 1 << byte
        for part, (mask, taken, _) in enumerate(self.plan(state).parts):
            if mask & bit:
                place = self._places[state] + part
                target = self._made[place]
                return self._take(state, place, taken) if target is None else target
        return DEAD

    def moves_on(self, state: int, among: int) -> Iterator[tuple[int, int]]:
        """(bytes, state after them) for those bytes `among` a set that do not lead to DEAD."""
        for part, (mask, taken, _) in enumerate(self.plan(state).parts):
            common = mask & among
            if common:
                place = self._places[state] + part
                target = self._made[place]
                if target is None:
                    target = self._take(state, place, taken)
                if target != DEAD:
                    yield common, target

    def begins(self, state: int) -> int:
        """The set of bytes with which texts may go on."""
        return self.plan(state).begins

    def plan(self, state: int) -> Plan:
        plan = self._opened[state]
        return self._open(state) if plan is None else plan

    def _open(self, state: int) -> Plan:
        items = self.all[state]
        if items and items[0] == ACCEPT:
            items = items[1:]
        heads = tuple([item >> 32 for item in items])
        plan = self._plans.get(heads)
        if plan is None:
            plan = _plan([self._edges(head) for head in heads])
            self._check(len(plan.parts))
            if not heads or heads[-1] < PRODUCTS:  # those come again, with other continuations
                self._plans[heads] = plan
        self._places[state] = len(self._made)
        self._made += [None] * len(plan.parts)
        self._opened[state] = plan
        return plan

    def target(self, state: int, part: int) -> int:
        """The state after a byte of one part of the plan."""
        place = self._places[state] + part
        target = self._made[place]
        if target is None:
            target = self._take(state, place, self.plan(state).parts[part][1])
        return target

    def after(self, continuation: int) -> int:
        """The state in which nothing is left before a continuation."""
        return self._target((1 << 32 | continuation,))

    def _take(self, state: int, place: int, taken: Taken) -> int:
        """The state after a byte on which edges are taken, whose place is among the targets."""
        read = self.all[state]
        first = 1 if read[0] == ACCEPT else 0
        key = tuple([code | read[first + i] & CONTINUATION for i, code in taken])
        target = self._made[place] = self._target(key)
        return target

    def _target(self, key: tuple[int, ...]) -> int:
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) > self._limits.states:
                self._targets.clear()
            target = self._targets[key] = self.number(self._after(key))
        return target

    def _after(self, taken: tuple[int, ...]) -> Collection[int]:
        """The items after edges that were `taken`, each with the continuation after it."""
        if len(taken) == 1:  # most of them
            code = taken[0]
            if code >> 32 == 1:
                return self._closure(code & CONTINUATION)
            if not code >> 32 & 1 and code >> 33 < PRODUCTS:
                return (code >> 33 << 32 | code & CONTINUATION,)
        items: set[int] = set()
        for code in taken:
            rest = code & CONTINUATION
            head = code >> 33
            if head >= PRODUCTS:
                items.update(self._product_items(head, rest))
            elif head != NO_HEAD:
                items.add(head << 32 | rest)
            if code >> 32 & 1:
                items.update(self._closure(rest))
        return items

    def _compute_moves(self, state: int) -> Moves:
        plan = self.plan(state)
        moves: dict[int, int] = {}
        for place, (mask, taken, _) in enumerate(plan.parts, self._places[state]):
            target = self._made[place]
            if target is None:
                target = self._take(state, place, taken)
            moves[target] = moves.get(target, 0) | mask
        moves.pop(DEAD, None)
        return tuple([(mask, target) for target, mask in moves.items()])


def most_items(limits: Limits) -> int:
    """Of all states together."""
    return limits.states * _ITEMS_PER_STATE


def admit(limits: Limits, states: int, items: int) -> None:
    """May one more be added to `states`, which then have `items` items in all? Raises GrammarTooLarge."""
    if states >= limits.states:
        raise GrammarTooLarge(f"more than {limits.states} states", limit="states")
    if items > most_items(limits):
        raise GrammarTooLarge(f"states with more than {most_items(limits)} items in all", limit="states")


def _plan(heads: list[tuple[Edge, ...]]) -> Plan:
    """Cut the bytes that `heads` read into parts on which the same edges are taken."""
    parts: list[tuple[int, Taken]] = []
    covered = 0
    for i, edges in enumerate(heads):
        for mask, head, complete in edges:
            taken = (i, (head << 1 | complete) << 32)
            if mask & covered:
                parts = list(_split(parts, mask, taken))
            fresh = mask & ~covered
            if fresh:
                parts.append((fresh, (taken,)))
                covered |= fresh
    told = tuple([(mask, taken, _text(taken)) for mask, taken in parts])
    return Plan(told, covered, covered.bit_count() > _WIDE)


def _text(taken: Taken) -> int:
    head = taken[0][1] >> 33
    return head if len(taken) == 1 and TEXTS <= head < PRODUCTS else NO_HEAD


def _split(
    parts: Iterable[tuple[int, Taken]], inside: int, taken: tuple[int, int]
) -> Iterator[tuple[int, Taken]]:
    """Cut every part along the bytes of an edge, and add the edge to the pieces inside."""
    for mask, before in parts:
        if mask & inside:
            yield mask & inside, (*before, taken)
        if mask & ~inside:
            yield mask & ~inside, before
