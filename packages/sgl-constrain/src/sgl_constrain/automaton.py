# SPDX-License-Identifier: Apache-2.0
"""The automaton: expressions, determinised over UTF-8 bytes one state at a time, when a state is first
needed.

    continuation   what is still to be read: an expression and then another continuation (a hash-consed list)
    item           a head, being read now, and the continuation after it: `head << 32 | continuation`
    state          a sorted tuple of items; item 0 (no head, nothing left) says that the text may end here

An expression recursive through rules gives ever longer continuations, so this is a pushdown automaton without
a stack of its own; a repetition counts down inside the continuation, so `x{0,100000}` costs one state per
repetition actually read. Items that differ only in their counts are kept only if no other item covers them,
which keeps states small. Every expression read here is able to finish (`prune`), so every state that is not
DEAD can be completed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import (
    EMPTY,
    ENDLESS,
    Both,
    Character,
    Choice,
    Deferred,
    Expressions,
    Reference,
    Repeat,
    Sequence,
    Without,
    Words,
)
from sgl_constrain.prune import prune
from sgl_constrain.utf8 import NO_HEAD, Edge

DEAD: Final = 0  # no continuation of the text is in the language
DONE: Final = 1  # the text has ended: an end token was taken

_END = 0  # the continuation after which nothing is left
_ACCEPT = 0  # the item that says the text may end
_COUNTS_COMPARED = 8  # counts further out in a continuation must be equal for items to be compared
_OPAQUE = 0  # FAIL, which no continuation contains, marks a skeleton that stands for a whole continuation
_LARGE_CLASS = 48  # first bytes of a class from which on `loop` tells of it
_PRODUCTS = 1 << 30  # heads from here on are products
_CONTINUATION = (1 << 32) - 1
_ALL_BYTES = (1 << 256) - 1

Counts = tuple[tuple[int, int], ...]  # (least, most) of each repetition in a continuation
Moves = tuple[tuple[int, int], ...]  # disjoint (set of bytes, state); bytes in none of the sets lead to DEAD


class _Product(NamedTuple):
    """A head that reads what `left` reads while watching `right`: together (`both`), or `left` and never
    `right`.
    """

    both: bool
    left: int
    right: int


class _Shape(NamedTuple):
    """A continuation with its counts taken out: equal skeletons differ in nothing but `counts`, innermost
    first.
    """

    skeleton: int
    counts: Counts


class Automaton:
    """States are numbers: `start`, `moves(state)`, `accepts(state)`. Not thread-safe: `Grammar` holds the
    lock.
    """

    def __init__(self, expressions: Expressions, root: int, *, pruned: bool = False) -> None:
        self.expressions = expressions
        self.limits = expressions.limits
        self.start_clock()
        self.states: list[tuple[int, ...]] = [(), (_ACCEPT,)]
        self._numbers: dict[tuple[int, ...], int] = {(): DEAD}
        self.known_moves: list[Moves | None] = [(), ()]  # by state; None: not asked for yet
        self._continuations: list[tuple[int, int]] = [(EMPTY, _END)]
        self._continuation_numbers: dict[tuple[int, int], int] = {}
        self._closures: dict[int, frozenset[int]] = {_END: frozenset((_ACCEPT,))}
        self._shapes: list[_Shape] = [_Shape(0, ())]
        self._skeletons: dict[tuple[int, int], int] = {}
        self._products: list[_Product] = []
        self._product_numbers: dict[_Product, int] = {}
        self._product_edges: dict[int, tuple[Edge, ...]] = {}
        self._live: dict[int, bool] = {}
        self._everything = self._start_of(expressions.any_string)
        if not pruned:
            # Deciding products reads rules that pruning then changes: an automaton of its own, thrown away.
            root = prune(expressions, root, Automaton(expressions, EMPTY, pruned=True).is_empty)
        self.start = self._start_of(root)

    # -- what the rest of the library asks -------------------------------------------------------------------

    def start_clock(self) -> None:
        """What is made from now on may take `limits.seconds`."""
        self._deadline = time.monotonic() + self.limits.seconds

    def accepts(self, state: int) -> bool:
        items = self.states[state]
        return bool(items) and items[0] == _ACCEPT

    def moves(self, state: int) -> Moves:
        known = self.known_moves[state]
        if known is None:
            known = self.known_moves[state] = self._compute_moves(state)
        return known

    def loop(self, state: int) -> tuple[int, int] | None:
        """A head, if it is a large class, that can be read up to n times in a row; and n, or ENDLESS."""
        best: tuple[int, int] | None = None
        most = _LARGE_CLASS
        for item in self.states[state]:
            head = item >> 32
            if NO_HEAD < head < _PRODUCTS:
                size = sum(edge.mask.bit_count() for edge in self._edges(head))
                times = self._times(head, item & _CONTINUATION) if size > most else 0
                if times:
                    best, most = (head, times), size
        return best

    def _times(self, head: int, rest: int) -> int:
        """How often `head` can be read before `rest`, as far as a repetition says that begins there; or 0."""
        expression, after = self._continuations[rest]
        node = self.expressions.nodes[expression]
        if not isinstance(node, Repeat):
            return 0
        if head << 32 | self._repeated(node, after) not in self._closure(rest):
            return 0
        return ENDLESS if node.most == ENDLESS else node.most + 1

    def _repeated(self, node: Repeat, after: int) -> int:
        """What is left to read after one time of a repetition that stands before `after`."""
        fewer = node.most if node.most == ENDLESS else node.most - 1
        more = self.expressions.repeat(node.body, max(node.least - 1, 0), fewer)
        return after if more == EMPTY else self._then(more, after)

    def within_character(self, state: int) -> bool:
        """Has the text so far ended inside a UTF-8 character? (Then every move is a continuation byte.)"""
        moves = self.moves(state)
        return bool(moves) and not self.accepts(state) and all(not mask & ~_TAIL_BYTES for mask, _ in moves)

    # -- continuations ---------------------------------------------------------------------------------------

    def _then(self, expression: int, rest: int) -> int:
        key = (expression, rest)
        number = self._continuation_numbers.get(key)
        if number is None:
            if len(self._continuations) >= self.limits.expressions:
                raise GrammarTooLarge(
                    f"more than {self.limits.expressions} continuations", limit="expressions"
                )
            self._continuations.append(key)
            number = self._continuation_numbers[key] = len(self._continuations) - 1
            self._shapes.append(self._shape(expression, rest))
        return number

    def _shape(self, expression: int, rest: int) -> _Shape:
        skeleton, counts = self._shapes[rest]
        if len(counts) == _COUNTS_COMPARED:
            skeleton, counts = self._skeleton(_OPAQUE, rest), ()
        node = self.expressions.nodes[expression]
        if isinstance(node, Repeat):
            # Negative numbers are the skeletons of repetitions, so they do not meet expressions.
            return _Shape(self._skeleton(-1 - node.body, skeleton), ((node.least, node.most), *counts))
        return _Shape(self._skeleton(expression, skeleton), counts)

    def _skeleton(self, first: int, rest: int) -> int:
        return self._skeletons.setdefault((first, rest), len(self._skeletons) + 1)

    def _append(self, continuation: int, rest: int) -> int:
        """`continuation` with `rest` in place of its end."""
        expressions: list[int] = []
        while continuation != _END:
            expression, continuation = self._continuations[continuation]
            expressions.append(expression)
        for expression in reversed(expressions):
            rest = self._then(expression, rest)
        return rest

    # -- from continuations to items -------------------------------------------------------------------------

    def _closure(self, continuation: int) -> frozenset[int]:
        """The items with which `continuation` may begin; _ACCEPT when it may be empty to the end of
        the text.
        """
        known = self._closures.get(continuation)
        if known is not None:
            return known
        items: set[int] = set()
        seen = {continuation}
        pending = [continuation]
        while pending:
            current = pending.pop()
            known = self._closures.get(current)
            if known is not None:
                items |= known
                continue
            for following in self._expand(*self._continuations[current], items):
                if following not in seen:
                    seen.add(following)
                    pending.append(following)
            self._check(len(seen) + len(items))
        result = self._closures[continuation] = frozenset(items)
        return result

    def _expand(self, expression: int, rest: int, items: set[int]) -> Iterable[int]:
        """One step: items go into `items`, continuations still to be expanded are returned."""
        node = self.expressions.nodes[expression]
        match node:
            case Character(head):
                items.add(head << 32 | rest)
            case Words():
                return self._expand_words(node, rest, items)
            case Sequence(parts):
                for part in reversed(parts):
                    rest = self._then(part, rest)
                return (rest,)
            case Choice(options):
                return [self._then(option, rest) for option in options]
            case Repeat(body, least, _) as repetition:
                once = self._then(body, self._repeated(repetition, rest))
                return (once,) if least else (once, rest)
            case Reference():
                return (self._then(self.expressions.body(node), rest),)
            case Deferred():
                return (self._then(self.expressions.made(expression), rest),)
            case Both(left, right):
                return self._expand_product(True, left, right, rest, items)
            case Without(left, right):
                return self._expand_product(False, left, right, rest, items)
            case _:
                return (rest,) if expression == EMPTY else ()
        return ()

    def _expand_words(self, node: Words, rest: int, items: set[int]) -> list[int]:
        words, follow = self.expressions.tables[node.table]
        low, depth = node.low, node.depth
        ended: list[int] = []
        if len(words[low]) == depth:
            ended.append(self._then(follow[low], rest))
            low += 1
        heads = self.expressions.heads
        while low < node.high:
            byte = words[low][depth]
            high = low + 1
            while high < node.high and words[high][depth] == byte:
                high += 1
            if high == low + 1 and len(words[low]) == depth + 1:
                after = self._then(follow[low], rest)
            else:
                after = self._then(self.expressions.rest_of_words(node.table, low, high, depth + 1), rest)
            items.add(heads.of_bytes(1 << byte) << 32 | after)
            low = high
        return ended

    def _expand_product(self, both: bool, left: int, right: int, rest: int, items: set[int]) -> Iterable[int]:
        product = _Product(both, self._start_of(left), self._start_of(right))
        items |= self._product_items(product, rest)
        return (rest,) if self._product_accepts(product) else ()

    def _check(self, size: int) -> None:
        if size > self.limits.items:
            raise GrammarTooLarge(
                f"more than {self.limits.items} ways to read the text at once", limit="items"
            )
        if time.monotonic() > self._deadline:
            raise GrammarTooLarge(f"more than {self.limits.seconds:g} seconds", limit="seconds")

    # -- states ----------------------------------------------------------------------------------------------

    def _start_of(self, expression: int) -> int:
        return self._number(self._closure(self._then(expression, _END)))

    def _number(self, items: frozenset[int] | set[int]) -> int:
        kept = tuple(sorted(self._drop_covered(items) if len(items) > 1 else items))
        number = self._numbers.get(kept)
        if number is None:
            if len(self.states) >= self.limits.states:
                raise GrammarTooLarge(f"more than {self.limits.states} states", limit="states")
            self._check(len(kept))
            self.states.append(kept)
            self.known_moves.append(None)
            number = self._numbers[kept] = len(self.states) - 1
        return number

    def _drop_covered(self, items: Iterable[int]) -> Iterable[int]:
        """Drop an item when another one, alike but for wider counts, reads everything that it reads."""
        groups: dict[tuple[int, int], list[int]] = {}
        for item in items:
            groups.setdefault((item >> 32, self._shapes[item & _CONTINUATION].skeleton), []).append(item)
        kept: list[int] = []
        for group in groups.values():
            kept += group if len(group) == 1 else self._widest(group)
        return kept

    def _widest(self, group: list[int]) -> list[int]:
        counts = {item: self._shapes[item & _CONTINUATION].counts for item in group}
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
            node = self.expressions.nodes[expression]
            if isinstance(node, Repeat):
                break
            before.append(expression)
        if (node.least, node.most) == (least, most):
            return item
        rest = self._then(self.expressions.repeat(node.body, least, most), rest)
        for expression in reversed(before):
            rest = self._then(expression, rest)
        return item & ~_CONTINUATION | rest

    def _compute_moves(self, state: int) -> Moves:
        parts: list[
            tuple[int, tuple[tuple[Edge, int], ...]]
        ] = []  # disjoint byte sets, and the edges taken on each
        covered = 0
        for item in self.states[state]:
            if item == _ACCEPT:
                continue
            rest = item & _CONTINUATION
            for edge in self._edges(item >> 32):
                fresh = edge.mask & ~covered
                if fresh != edge.mask:
                    parts = list(_split(parts, edge, rest))
                if fresh:
                    parts.append((fresh, ((edge, rest),)))
                    covered |= fresh
        self._check(len(parts))
        targets: dict[int, int] = {}
        for mask, edges in parts:
            items: set[int] = set()
            for edge, rest in edges:
                items |= self._after(edge, rest)
            target = self._number(items)
            targets[target] = targets.get(target, 0) | mask
        targets.pop(DEAD, None)
        return tuple((mask, target) for target, mask in targets.items())

    def _after(self, edge: Edge, rest: int) -> set[int]:
        items: set[int] = set()
        if edge.head >= _PRODUCTS:
            items |= self._product_items(self._products[edge.head - _PRODUCTS], rest)
        elif edge.head != NO_HEAD:
            items.add(edge.head << 32 | rest)
        if edge.complete:
            items |= self._closure(rest)
        return items

    def _edges(self, head: int) -> tuple[Edge, ...]:
        if head < _PRODUCTS:
            return self.expressions.heads.edges[head]
        known = self._product_edges.get(head)
        if known is None:
            known = self._product_edges[head] = tuple(
                self._compute_product_edges(self._products[head - _PRODUCTS])
            )
        return known

    # -- products --------------------------------------------------------------------------------------------

    def _product_accepts(self, product: _Product) -> bool:
        return self.accepts(product.left) and self.accepts(product.right) == product.both

    def is_empty(self, node: Both | Without) -> bool:
        """Is there no string in the product?"""
        left, right = self._start_of(node.left), self._start_of(node.right)
        product = _Product(isinstance(node, Both), left, right)
        return not self._product_accepts(product) and not self._is_live(self._product_head(product))

    def _product_items(self, product: _Product, rest: int) -> set[int]:
        """The items of a product and then `rest`: none if it cannot finish, plain ones if `right` no longer
        matters.
        """
        both, left, right = product
        if right == (self._everything if both else DEAD):
            return {
                item & ~_CONTINUATION | self._append(item & _CONTINUATION, rest)
                for item in self.states[left]
                if item != _ACCEPT
            }
        head = self._product_head(product)
        return {head << 32 | rest} if self._is_live(head) else set()

    def _product_head(self, product: _Product) -> int:
        number = self._product_numbers.get(product)
        if number is None:
            if len(self._products) >= self.limits.states:
                raise GrammarTooLarge(f"more than {self.limits.states} states", limit="states")
            self._products.append(product)
            number = self._product_numbers[product] = _PRODUCTS + len(self._products) - 1
        return number

    def _product_successors(self, product: _Product) -> Iterable[tuple[int, _Product]]:
        both, left, right = product
        for mask, after_left in self.moves(left):
            remaining = mask
            for other, after_right in self.moves(right):
                common = remaining & other
                if common:
                    yield common, _Product(both, after_left, after_right)
                    remaining &= ~common
            if remaining and not both:
                yield remaining, _Product(both, after_left, DEAD)

    def _compute_product_edges(self, product: _Product) -> Iterable[Edge]:
        for mask, successor in self._product_successors(product):
            head = self._product_head(successor)
            live, complete = self._is_live(head), self._product_accepts(successor)
            if live or complete:
                yield Edge(mask, head if live else NO_HEAD, complete)

    def _search_order(self, product: _Product) -> Iterator[_Product]:
        """Successors on few bytes first: a loop takes many, what leads out of it few."""
        successors = sorted(self._product_successors(product), key=lambda s: s[0].bit_count())
        return (successor for _, successor in successors)

    def _is_live(self, head: int) -> bool:
        """Can the product finish after at least one more byte? A depth-first search that remembers."""
        known = self._live.get(head)
        if known is not None:
            return known
        visited = {head}
        path = [(head, self._search_order(self._products[head - _PRODUCTS]))]
        while path:
            for successor in path[-1][1]:
                number = self._product_head(successor)
                both, left, right = successor
                decided = right == (self._everything if both else DEAD) and left != DEAD
                if decided or self._product_accepts(successor) or self._live.get(number):
                    self._live.update((on_path, True) for on_path, _ in path)
                    return True
                if number not in visited and number not in self._live:
                    visited.add(number)
                    path.append((number, self._search_order(successor)))
                    break
            else:
                path.pop()
            self._check(0)
        # Everything reachable was searched and nothing accepts.
        self._live.update((number, False) for number in visited)
        return False


_TAIL_BYTES = ((1 << 64) - 1) << 0x80


def _span(count: tuple[int, int]) -> float:
    least, most = count
    return float("inf") if most == ENDLESS else most - least


def _covers(wide: Counts, narrow: Counts) -> bool:
    return all(
        w[0] <= n[0] and (w[1] == ENDLESS or (n[1] != ENDLESS and n[1] <= w[1]))
        for w, n in zip(wide, narrow, strict=True)
    )


def _split(
    parts: Iterable[tuple[int, tuple[tuple[Edge, int], ...]]], edge: Edge, rest: int
) -> Iterable[tuple[int, tuple[tuple[Edge, int], ...]]]:
    """Cut every part along the edge's bytes and add the edge to the pieces inside."""
    for mask, edges in parts:
        inside = mask & edge.mask
        if inside:
            yield inside, (*edges, (edge, rest))
        if mask != inside:
            yield mask & ~inside, edges
