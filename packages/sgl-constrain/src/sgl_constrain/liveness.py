# SPDX-License-Identifier: Apache-2.0
"""Can a product finish? Asked of every state of a product before it is entered: there are no dead ends.

A product is searched for a completion, most promising state first. Repetitions are what makes products
large: `x{0,255}` beside a pattern has each of the pattern's states 256 times. So a product is first searched
with its large counts taken off (*relaxed*), where those are one state. That language is larger; but a
completion of so few bytes that no count could run out is one of the product itself, and if there is none at
all, neither has the product one.

Knows the automaton by the few methods below, and nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush
from typing import Final, NamedTuple, Protocol

from sgl_constrain.expression import FAR

NEVER: Final = -1  # instead of a distance: there is no completion


class Product(NamedTuple):
    """A head that reads what `left` reads while watching `right`: together (`both`), or `left` and never
    `right`.
    """

    both: bool
    left: int
    right: int


class Machine(Protocol):
    def product(self, head: int) -> Product: ...

    def product_head(self, product: Product) -> int: ...

    def product_accepts(self, product: Product) -> bool: ...

    def right_no_longer_matters(self, product: Product) -> bool: ...

    def product_successors(self, product: Product) -> Iterable[tuple[int, Product]]: ...

    def shortest(self, state: int) -> int:
        """Bytes of the shortest completion of a state; FAR when that is not plain to see."""
        ...

    def relaxed(self, state: int) -> tuple[int, int]:
        """The state without its large counts, and how many bytes none of them can run out in."""
        ...

    def check(self, size: int) -> None: ...


class Liveness:
    """Distances of the products of one automaton. `farthest` is the largest one found so far."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._distances: dict[int, int] = {}
        self.farthest = 0

    def is_live(self, head: int) -> bool:
        """Can the product finish after at least one more byte?"""
        return self.distance(head) != NEVER

    def distance(self, head: int) -> int:
        """Bytes of some completion, of at least one byte; NEVER when there is none, FAR when not known."""
        known = self._distances.get(head)
        if known is None:
            relaxed, room = self.relaxed(head)
            known = FAR if relaxed == head else self.distance(relaxed)
            if known > room or relaxed == head:
                known = self._search(head)
            self._distances[head] = known
            self.farthest = max(self.farthest, known)
        return known

    def relaxed(self, head: int) -> tuple[int, int]:
        """As `Machine.relaxed`. What is taken away from `left` must not grow, so `right` keeps its counts
        then.
        """
        both, left, right = self._machine.product(head)
        left, room = self._machine.relaxed(left)
        if both:
            right, other = self._machine.relaxed(right)
            room = min(room, other)
        return self._machine.product_head(Product(both, left, right)), room

    def _search(self, head: int) -> int:
        machine = self._machine
        before: dict[int, int] = {head: head}
        pending = [(0, 0, 0, head)]
        while pending:
            current = heappop(pending)[-1]
            for _, successor in machine.product_successors(machine.product(current)):
                number = machine.product_head(successor)
                if machine.product_accepts(successor):
                    return self._found(before, current, 1)
                if machine.right_no_longer_matters(successor):
                    return self._found(before, current, 1 + machine.shortest(successor.left))
                known = self._distances.get(number)
                if known is None:
                    if number not in before:
                        before[number] = current
                        heappush(pending, (*self._promise(successor), -len(before), number))
                elif known != NEVER:
                    return self._found(before, current, 1 + known)
            machine.check(0)
        # Everything reachable was searched and nothing accepts.
        self._distances.update(dict.fromkeys(before, NEVER))
        return NEVER

    def _found(self, before: dict[int, int], current: int, distance: int) -> int:
        while True:
            distance = min(distance, FAR)
            self._distances[current] = distance
            self.farthest = max(self.farthest, distance)
            if before[current] == current:
                return distance
            current = before[current]
            distance += 1

    def _promise(self, product: Product) -> tuple[int, int]:
        """Less is better: the bytes still needed, by what each side alone tells; of those that need as many
        the one whose other side is not about to end.
        """
        left, right = self._machine.shortest(product.left), self._machine.shortest(product.right)
        left = 0 if left == FAR else left
        right = 0 if right == FAR or not product.both else right
        return max(left, right), -min(left, right)
