# SPDX-License-Identifier: Apache-2.0
"""Items that another item makes superfluous: alike but for wider counts, it reads everything that they read.

`x{1,3}y` beside `x{0,9}y` adds nothing, and `x{1,3}y` and `x{2,5}y` are together `x{1,5}y`. Without this a
state of counted repetitions would have an item for each way of having counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, cast

from sgl_constrain.expression import ENDLESS, Expressions, Repeat
from sgl_constrain.twin import Sequenced

Counts = tuple[tuple[int, int], ...]  # (least, most) of each repetition in a continuation

_END = 0  # the continuation after which nothing is left
_CONTINUATION = (1 << 32) - 1  # of an item: its head stands above
_COUNTS_COMPARED = 8  # counts further out in a continuation must be equal for items to be compared
LARGEST_COUNT = (1 << 31) - 1  # that the twin in C compares
_OPAQUE = 0  # FAIL, which no continuation contains, marks a skeleton that stands for a whole continuation


class _Shape(NamedTuple):
    """A continuation with its counts taken out: equal skeletons differ in nothing but `counts`, innermost
    first.
    """

    skeleton: int
    counts: Counts


class Covering:
    """Of one automaton's items. continuations: (expression, rest) by number, as the automaton adds to them;
    then: the number of a continuation; check: its limits of size and time.
    """

    def __init__(
        self,
        expressions: Expressions,
        continuations: Sequenced[tuple[int, int]],
        then: Callable[[int, int], int],
        check: Callable[[int], None],
    ) -> None:
        self._expressions = expressions
        self._continuations = continuations
        self._then = then
        self._check = check
        self._shapes: dict[int, _Shape] = {_END: _Shape(0, ())}  # of the continuations that were compared
        self._skeletons: dict[tuple[int, int], int] = {}

    def uncovered(self, items: Collection[int]) -> Collection[int]:
        """Drop an item when another one, alike but for wider counts, reads everything that it reads."""
        alike: dict[int, list[int]] = {}
        for item in items:
            alike.setdefault(item >> 32, []).append(item)
        if len(alike) == len(items):
            return items
        kept: list[int] = []
        for same_head in alike.values():
            if len(same_head) == 1:
                kept += same_head
                continue
            groups: dict[int, list[int]] = {}
            for item in same_head:
                groups.setdefault(self._shape(item & _CONTINUATION).skeleton, []).append(item)
            for group in groups.values():
                kept += group if len(group) == 1 else self.widest(group)
        return kept

    def widest(self, group: Sequence[int]) -> Sequence[int]:
        """Those of some items alike but for their counts that are enough."""
        counts = {item: self._shape(item & _CONTINUATION).counts for item in group}
        if not counts[group[0]]:
            return group
        if len(group) > 2:
            counts = self._join_neighbours(counts)
        kept: list[int] = []
        # A covering item admits at least as many repetitions in sum, so it comes first.
        for item in sorted(counts, key=lambda item: sum(_span(c) for c in counts[item]), reverse=True):
            if not any(_covers(counts[other], counts[item]) for other in kept):
                kept.append(item)
            self._check(len(kept))
        return kept

    def counts(self, expression: int) -> tuple[int, ...]:
        """The body, the least and the most of a repetition; nothing for other expressions, and for counts
        beyond those that the twin in C compares.
        """
        node = self._expressions.nodes[expression]
        counted = type(node) is Repeat and max(node.least, node.most) <= LARGEST_COUNT
        return cast(Repeat, node) if counted else ()

    def _join_neighbours(self, counts: dict[int, Counts]) -> dict[int, Counts]:
        """x{1,3}y and x{2,5}y are together x{1,5}y: join items whose innermost counts overlap or touch."""
        joined: dict[int, Counts] = {}
        alike: dict[Counts, list[int]] = {}
        for item, count in counts.items():
            alike.setdefault(count[1:], []).append(item)
        for outer, items in alike.items():
            items.sort(key=lambda item: counts[item][0][0])
            representative, (least, most) = items[0], counts[items[0]][0]
            for item in items[1:]:
                (low, high) = counts[item][0]
                if most == ENDLESS or low <= most + 1:
                    most = ENDLESS if ENDLESS in (most, high) else max(most, high)
                else:
                    joined[self._with_count(representative, least, most)] = ((least, most), *outer)
                    representative, least, most = item, low, high
            joined[self._with_count(representative, least, most)] = ((least, most), *outer)
        return joined

    def _with_count(self, item: int, least: int, most: int) -> int:
        """The item with its innermost repetition counted least..most instead."""
        rest = item & _CONTINUATION
        before: list[int] = []
        while True:
            expression, rest = self._continuations[rest]
            node = self._expressions.nodes[expression]
            if isinstance(node, Repeat):
                break
            before.append(expression)
        if (node.least, node.most) == (least, most):
            return item
        rest = self._then(self._expressions.repeat(node.body, least, most), rest)
        for expression in reversed(before):
            rest = self._then(expression, rest)
        return item & ~_CONTINUATION | rest

    def _shape(self, continuation: int) -> _Shape:
        known = self._shapes
        path: list[int] = []
        while continuation not in known:
            path.append(continuation)
            continuation = self._continuations[continuation][1]
        for current in reversed(path):
            expression, rest = self._continuations[current]
            skeleton, counts = known[rest]
            if len(counts) == _COUNTS_COMPARED:
                skeleton, counts = self._skeleton(_OPAQUE, rest), ()
            node = self._expressions.nodes[expression]
            if isinstance(node, Repeat):
                # Negative numbers are the skeletons of repetitions, so they do not meet expressions.
                skeleton = self._skeleton(-1 - node.body, skeleton)
                known[current] = _Shape(skeleton, ((node.least, node.most), *counts))
            else:
                known[current] = _Shape(self._skeleton(expression, skeleton), counts)
        return known[path[0] if path else continuation]

    def _skeleton(self, first: int, rest: int) -> int:
        return self._skeletons.setdefault((first, rest), len(self._skeletons) + 1)


def _span(count: tuple[int, int]) -> float:
    least, most = count
    return float("inf") if most == ENDLESS else most - least


def _covers(wide: Counts, narrow: Counts) -> bool:
    return all(
        w[0] <= n[0] and (w[1] == ENDLESS or (n[1] != ENDLESS and n[1] <= w[1]))
        for w, n in zip(wide, narrow, strict=True)
    )
