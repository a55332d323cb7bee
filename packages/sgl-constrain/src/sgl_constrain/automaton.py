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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import cast

from sgl_constrain.covering import LARGEST_COUNT, Covering
from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import (
    EMPTY,
    ENDLESS,
    FAR,
    Both,
    Character,
    Choice,
    Deferred,
    Expressions,
    Listed,
    Node,
    Reference,
    Repeat,
    Sequence,
    Without,
    Words,
)
from sgl_constrain.liveness import Liveness, Product
from sgl_constrain.prune import prune
from sgl_constrain.readings import PRODUCTS, Excluding, Reading, Readings, Stay
from sgl_constrain.states import ACCEPT, CONTINUATION, DEAD, States, admit, most_items
from sgl_constrain.texts import NOTHING, TEXTS, Texts
from sgl_constrain.twin import ENGINE, Continuations, Sequenced, TwinStates
from sgl_constrain.utf8 import NO_HEAD, Edge

_END = 0  # the continuation after which nothing is left
# Kinds, as the twin knows them.
_OPTIONS, _CHARACTER, _SEQUENCE, _REPEAT, _WORDS, _PRODUCT, _LISTED = range(7)
_UNCHECKED = 64  # items and ways to them up to which limits are not asked
_LARGE_CLASS = 48  # first bytes from which on a class is worth a slice,
_LARGE_RUN = 20  # and from which on its runs are worth a walk of their own
_LARGE_COUNT = 100  # repetitions from which on a product is first searched without counting them
_BYTES_PER_STATE, _BYTES_PER_ITEM, _BYTES_PER_CONTINUATION = 400, 40, 350  # roughly, beside rows and masks
_TAIL_BYTES = ((1 << 64) - 1) << 0x80


class Automaton:
    """States are numbers: `start`, `moves(state)`, `accepts(state)`. Not thread-safe: `Grammar` holds the
    lock.
    """

    def __init__(self, expressions: Expressions, root: int, *, pruned: bool = False) -> None:
        self.expressions = expressions
        expressions.read_until(self.close)
        self.limits = expressions.limits
        self._pairs: list[tuple[int, int]] = [(EMPTY, _END)]
        self._continuation_numbers: dict[tuple[int, int], int] = {}
        self.texts = Texts(expressions)
        self._twin = ENGINE.continuations(self._describe, self.check)
        self._continuations: Sequenced[tuple[int, int]] = self._pairs if self._twin is None else self._twin
        self._unbounded: dict[int, int] = {_END: _END}
        self._unbounded_from = 0
        self._closures: dict[int, tuple[int, ...]] = {_END: (ACCEPT,)}
        self._covering = Covering(expressions, self._continuations, self._then, self.check)
        self.twin_table = None if self._twin is None else self._twin_states(self._twin)
        self.start_clock()
        self.table: States | TwinStates
        self.states: Sequenced[tuple[int, ...]]  # their items
        if self.twin_table is None:
            self.table = self._states()
            self.states = self.table.all
        else:
            self.table = self.states = self.twin_table
        self._number, self.step, self.moves = self.table.number, self.table.step, self.table.moves
        self.moves_on, self.begins, self.accepts = self.table.moves_on, self.table.begins, self.table.accepts
        self._readings = Readings(
            expressions, self._continuations, first=self._first, closure=self._closure, number=self._number
        )
        self._stays: dict[int, Stay | None] = {}
        self._coming_back: dict[int, bool] = {}
        self._products: list[Product] = []
        self._product_numbers: dict[Product, int] = {}
        self._product_edges: dict[int, tuple[Edge, ...]] = {}
        self._liveness = Liveness(self)
        self._relaxed: dict[int, tuple[int, int]] = {}
        self._relaxed_continuations: dict[int, tuple[int, int]] = {_END: (_END, FAR)}
        self._shortest: dict[int, int] = {_END: 0}
        if self.twin_table is not None:
            self.twin_table.everything(self._everything)
        if not pruned:
            with judge(expressions) as is_empty:
                root = prune(expressions, root, is_empty)
        self.start = self._start_of(root)

    def close(self) -> None:
        """Free everything, at once: its parts hold methods of each other. It may not be used any more."""
        self.__dict__.clear()

    # -- what the rest of the library asks -------------------------------------------------------------------

    def start_clock(self, *, step: bool = False) -> None:
        """What is made from now on may take `limits.seconds`, or `limits.step_seconds`."""
        limits = self.limits
        self._step = step and limits.step_seconds is not None
        seconds = limits.step_seconds or 0.0 if self._step else limits.seconds
        self._deadline = time.monotonic() + seconds
        if self.twin_table is not None:
            self.twin_table.start_clock(seconds)

    @property
    def nbytes(self) -> int:
        """About how much memory states and continuations hold."""
        return (
            len(self.states) * _BYTES_PER_STATE
            + self.table.held() * _BYTES_PER_ITEM
            + len(self._continuations) * _BYTES_PER_CONTINUATION
        )

    def loop(self, state: int) -> tuple[int, int] | None:
        """A head, if it is a large class, that can be read up to n times in a row; and n, or ENDLESS."""
        best: tuple[int, int] | None = None
        most = _LARGE_CLASS
        for item in self.states[state]:
            head = item >> 32
            if NO_HEAD < head < TEXTS:
                size = self.expressions.heads.first(head).bit_count()
                times = self._times(head, item & CONTINUATION) if size > most else 0
                if times:
                    best, most = (head, times), size
        return best

    def _times(self, head: int, rest: int) -> int:
        """How often `head` can be read before `rest`, as far as a repetition says that begins there; or 0."""
        expression, after = self._continuations[rest]
        node = self.expressions.nodes[expression]
        if not isinstance(node, Repeat):
            return 0
        if head << 32 | self._repeated(expression, after) not in self._closure(rest):
            return 0
        return ENDLESS if node.most == ENDLESS else node.most + 1

    def run(self, state: int) -> Reading | None:
        """How a state reads characters of one class, where nothing else that it reads on the way begins like
        one of them.
        """
        return self._readings.of(self.states[state])

    def repeated(self, state: int) -> int | None:
        """The largest class that a state reads over and over; None when there is a product in the state."""
        return self._readings.repeated(self.states[state])

    def stay(self, state: int) -> Stay | None:
        """The class of which characters leave what else a state reads as it is, if there is one."""
        if state not in self._stays:
            self._stays[state] = self._readings.stay(self.states[state])
        return self._stays[state]

    def reads(self, head: int, byte: int) -> bool:
        """May a class begin with a byte?"""
        return self.expressions.heads.first(head) >> byte & 1 == 1

    def is_large(self, head: int) -> bool:
        """Does a class begin with many bytes?"""
        return self.expressions.heads.first(head).bit_count() > _LARGE_RUN

    def excluding(self, state: int) -> tuple[int, int, int] | None:
        """For a state that may read any number of characters of a large class as long as that is not what
        state `right` reads, and then what `left` reads, which is `left` again after each: the class's head,
        `left` and `right`.
        """
        head = self.states[state][-1] >> 32
        if head < PRODUCTS:
            return None
        both, left, right = self.product(head)
        loop = None if both else self.loop(left)
        if loop is None or loop[1] != ENDLESS:
            return None
        items = self.states[left]
        rests = [item & CONTINUATION for item in items if item >> 32 == loop[0]]
        others = [item >> 32 for item in items if item >> 32 != loop[0]]
        first = sum(edge.mask for edge in self._edges(loop[0]))
        if len(rests) > 1 or any(edge.mask & first for other in others for edge in self._edges(other)):
            return None
        return (loop[0], left, right) if self._number(self._closure(rests[0])) == left else None

    def without_words(self, state: int) -> Excluding | None:
        """For a state that reads characters of a class over and over, but not so that a few texts come of it,
        and then what begins like none of them.
        """
        items = self.states[state]
        head, rest = items[-1] >> 32, items[-1] & CONTINUATION
        if head < PRODUCTS or (len(items) > 1 and items[-2] >> 32 >= PRODUCTS):
            return None
        both, left, right = self.product(head)
        if both or not self._comes_back(left) or not self._readings.is_words(self.states[right]):
            return None
        after = self._number(self._closure(rest))
        if self.begins(after) & self.begins(left):
            return None
        plain = self._number(self._product_items(Product(False, left, DEAD), rest))
        return Excluding(left, right, after, plain, self._number(items[:-1]))

    def _comes_back(self, state: int) -> bool:
        known = self._coming_back.get(state)
        if known is None:
            known = self._coming_back[state] = self._readings.comes_back(self.states[state])
        return known

    def differs(self, left: int, right: int) -> bool:
        """Does `left` read anything, if only the empty text, that `right` does not?"""
        product = Product(False, left, right)
        return self.product_accepts(product) or bool(self._product_items(product, _END))

    def unbounded(self, state: int, most: int, *, products: bool = True) -> tuple[int, int]:
        """A state that reads the same texts of up to `most` bytes, but no longer counts repetitions beyond
        that: many states become one. Whether the text may end is not asked of it.

        The second number is a condition, which is known to hold only when those texts have been read: that no
        completion is `farther` than that. If one is, ask again without `products`.
        """
        if self.twin_table is not None:
            found = self.twin_table.unbounded(state, most)
            if found is not None:
                return found, FAR
        if most != self._unbounded_from:
            self._unbounded_from, self._unbounded = most, {_END: _END}
        here = self.states[state]
        if here and here[-1] >> 32 < PRODUCTS:
            known = self._unbounded
            for item in here:
                rest = item & CONTINUATION
                if known.get(rest) != rest and self._unbound(rest, most) != rest:
                    break
            else:
                return state, FAR
        items: set[int] = set()
        slack = FAR
        for item in here:
            head, rest = item >> 32, self._unbound(item & CONTINUATION, most)
            relaxed, room = self._liveness.relaxed(head) if products and head >= PRODUCTS else (head, FAR)
            if relaxed != head and self.farther + most <= room:
                items |= self._product_items(self.product(relaxed), rest)
                slack = min(slack, room - most)
            else:
                items.add(head << 32 | rest)
        unchanged = slack == FAR and items == set(here)
        return (state if unchanged else self._number(items)), slack

    def without_exceptions(self, state: int) -> int:
        """A state that reads everything that this one reads, and what products take away from it."""
        items = self.states[state]
        if not items or items[-1] >> 32 < PRODUCTS:
            return state
        kept: set[int] = set()
        pending = list(items)
        while pending:
            item = pending.pop()
            product = self.product(item >> 32) if item >> 32 >= PRODUCTS else None
            if product is None or product.both:
                kept.add(item)
            else:
                pending += self._product_items(product._replace(right=DEAD), item & CONTINUATION)
        return self._number(kept)

    @property
    def farther(self) -> int:
        """The most bytes that a product needed to finish, so far."""
        known = self._liveness.farthest
        return known if self.twin_table is None else max(known, self.twin_table.farthest())

    def _unbound(self, continuation: int, most: int) -> int:
        known = self._unbounded
        path: list[int] = []
        while continuation not in known:
            path.append(continuation)
            continuation = self._continuations[continuation][1]
        rest = known[continuation]
        for continuation in reversed(path):
            expression = self._continuations[continuation][0]
            node = self.expressions.nodes[expression]
            if isinstance(node, Repeat) and (node.most > most or node.least > most):
                expression = self._uncounted(expression, most)
            rest = known[continuation] = self._then(expression, rest)
        return rest

    def _uncounted(self, expression: int, most: int) -> int:
        """A repetition that no longer counts beyond `most`."""
        node = cast(Repeat, self.expressions.nodes[expression])
        limit = ENDLESS if node.most > most else node.most
        return self.expressions.repeat(node.body, min(node.least, most), limit)

    def _repeated(self, expression: int, after: int) -> int:
        """What is left to read after one time of a repetition that stands before `after`."""
        more = self.expressions.once_less(expression)
        return after if more == EMPTY else self._then(more, after)

    def only_byte(self, state: int) -> int | None:
        """The byte that every text goes on with, when there is one and the text may not end."""
        begins = self.begins(state)
        return None if begins.bit_count() != 1 or self.accepts(state) else begins.bit_length() - 1

    def within_character(self, state: int) -> bool:
        """Has the text so far ended inside a UTF-8 character? (Then it goes on with a continuation byte.)"""
        begins = self.begins(state)
        return begins != 0 and not begins & ~_TAIL_BYTES and not self.accepts(state)

    # -- continuations ---------------------------------------------------------------------------------------

    def _then(self, expression: int, rest: int) -> int:
        if self._twin is not None:
            return int(self._twin.then(expression, rest))
        key = (expression, rest)
        number = self._continuation_numbers.get(key)
        if number is None:
            if len(self._pairs) >= self.limits.expressions:
                raise GrammarTooLarge(
                    f"more than {self.limits.expressions} continuations", limit="expressions"
                )
            self._pairs.append(key)
            number = self._continuation_numbers[key] = len(self._pairs) - 1
        return number

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

    def _closure(self, continuation: int) -> tuple[int, ...]:
        """The items with which `continuation` may begin, each once; ACCEPT when it may be empty to the end of
        the text.
        """
        known = self._closures.get(continuation)
        if known is not None:
            return known
        if self._twin is not None:
            known = self._closures[continuation] = self._twin.closure(continuation)
            return known
        nodes, continuations, closures = self.expressions.nodes, self._continuations, self._closures
        expression, rest = continuations[continuation]
        node = nodes[expression]
        if type(node) is Character:  # most of them
            known = closures[continuation] = (node.head << 32 | rest,)
            return known
        if type(node) is Repeat and node.least == 0:  # nearly all others
            body = nodes[node.body]
            if type(body) is Character and self._is_plain(rest):
                once = body.head << 32 | self._repeated(expression, rest)
                known = self._closure(rest)
                known = closures[continuation] = known if once in known else (once, *known)
                return known
        items: set[int] = set()
        seen = {continuation}
        pending = [continuation]
        while pending:
            current = pending.pop()
            known = closures.get(current)
            if known is not None:
                items.update(known)
                continue
            expression, rest = continuations[current]
            node = nodes[expression]
            if type(node) is Character:
                items.add(node.head << 32 | rest)
                continue
            for following in self._expand(expression, node, rest, items):
                if following not in seen:
                    seen.add(following)
                    pending.append(following)
            if len(seen) + len(items) > _UNCHECKED:
                self.check(len(seen) + len(items))
        known = closures[continuation] = tuple(items)
        return known

    def _is_plain(self, continuation: int) -> bool:
        """Is its closure known, or not to be found by way of another one?"""
        expression = self._continuations[continuation][0]
        return continuation in self._closures or type(self.expressions.nodes[expression]) is not Repeat

    def _describe(self, expression: int) -> tuple[int, ...]:
        """An expression for the twin in C: its kind, and numbers as `_expand` uses them."""
        node = self.expressions.nodes[expression]
        kind = type(node)  # asked in the order of how often it is what
        if kind is Deferred or kind is Reference:
            if kind is Deferred:
                listed = self.expressions.listed(expression)
                if listed is not None:
                    return self._described(listed)
                stands = self.expressions.made(expression)
            else:
                stands = self.expressions.body(cast(Reference, node))
            node = self.expressions.nodes[stands]
            kind = type(node)
            if kind is not Sequence and kind is not Choice:
                return _OPTIONS, stands
        if kind is Sequence:
            return _SEQUENCE, *cast(Sequence, node).parts
        if kind is Words:
            ended, edges = self.texts.begin(expression)
            return _WORDS, ended, *[number for edge in edges for number in edge]
        if kind is Repeat:
            body, least, most = cast(Repeat, node)
            counts = (least, most) if max(least, most) <= LARGEST_COUNT else ()
            return _REPEAT, body, int(least == 0), self.expressions.once_less(expression), *counts
        match node:
            case Character(head):
                return _CHARACTER, head
            case Choice(options):
                return _OPTIONS, *options
            case Both(left, right) | Without(left, right):
                return _PRODUCT, int(kind is Both), left, right
            case _:
                return (_OPTIONS, EMPTY) if expression == EMPTY else (_OPTIONS,)

    def _described(self, listed: Listed) -> tuple[int, ...]:
        *about, members = listed
        told: list[int] = []
        for text, value, required in members:
            told += self.texts.head(text), value, required
        return _LISTED, *about, len(told) // 3, *told

    def _expand(self, expression: int, node: Node, rest: int, items: set[int]) -> Iterable[int]:
        """One step: items go into `items`, continuations still to be expanded are returned."""
        kind = type(node)  # asked in the order of how often it is what
        if kind is Sequence:
            for part in reversed(cast(Sequence, node).parts):
                rest = self._then(part, rest)
            return (rest,)
        if kind is Words:
            return self._expand_words(expression, rest, items)
        match node:
            case Repeat(body, least, _):
                once = self._then(body, self._repeated(expression, rest))
                return (once,) if least else (once, rest)
            case Choice(options):
                return [self._then(option, rest) for option in options]
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

    def _expand_words(self, expression: int, rest: int, items: set[int]) -> Iterable[int]:
        ended, edges = self.texts.begin(expression)
        for head, following in edges:
            items.add(head << 32 | (rest if following == EMPTY else self._then(following, rest)))
        return () if ended == NOTHING else (self._then(ended, rest),)

    def _expand_product(self, both: bool, left: int, right: int, rest: int, items: set[int]) -> Iterable[int]:
        product = Product(both, self._start_of(left), self._start_of(right))
        items |= self._product_items(product, rest)
        return (rest,) if self.product_accepts(product) else ()

    def check(self, size: int) -> None:
        if size > self.limits.items:
            raise GrammarTooLarge(
                f"more than {self.limits.items} ways to read the text at once", limit="items"
            )
        if len(self._continuations) > self.limits.expressions:
            raise GrammarTooLarge(f"more than {self.limits.expressions} continuations", limit="expressions")
        if time.monotonic() > self._deadline:
            limit = "step_seconds" if self._step else "seconds"
            raise GrammarTooLarge(f"more than {getattr(self.limits, limit):g} seconds", limit=limit)

    # -- states ----------------------------------------------------------------------------------------------

    def _states(self) -> States:
        return States(
            self.limits,
            edges=self._edges,
            product_items=self._items_of,
            closure=self._closure,
            uncovered=self._covering.uncovered,
            check=self.check,
        )

    def _twin_states(self, continuations: Continuations) -> TwinStates:
        return ENGINE.states(
            continuations,
            edges=self._told_edges,
            counts=self._covering.counts,
            widest=self._covering.widest,
            admit=self._admit,
            shortest=self.expressions.shortest,
            distance=self._distance,
            uncounted=self._uncounted,
            most_states=self.limits.states,
            most_held=most_items(self.limits),
        )

    def _admit(self, size: int, items: int) -> None:
        admit(self.limits, len(self.states), items)
        self.check(size)

    def _start_of(self, expression: int) -> int:
        return self._number(self._closure(self._then(expression, _END)))

    def _told_edges(self, head: int) -> bytes:
        """For the twin in C; of a head that reads a text the text."""
        return self.expressions.heads.packed(head) if head < TEXTS else self.texts.text(head)

    def _edges(self, head: int) -> tuple[Edge, ...]:
        if head < TEXTS:
            return self.expressions.heads.edges[head]
        if head < PRODUCTS:
            return (self.texts.edge(head),)
        known = self._product_edges.get(head)
        if known is None:
            known = self._product_edges[head] = tuple(
                self._compute_product_edges(self._products[head - PRODUCTS])
            )
        return known

    def _first(self, head: int) -> int:
        """The set of bytes with which a head begins that is not a product's."""
        return self.expressions.heads.first(head) if head < TEXTS else self.texts.first(head)

    # -- products --------------------------------------------------------------------------------------------

    def product_accepts(self, product: Product) -> bool:
        return self.accepts(product.left) and self.accepts(product.right) == product.both

    def is_empty(self, node: Both | Without) -> bool:
        """Is there no string in the product?"""
        left, right = self._start_of(node.left), self._start_of(node.right)
        product = Product(isinstance(node, Both), left, right)
        return not self.product_accepts(product) and not self._is_live(self.product_head(product))

    def _items_of(self, head: int, rest: int) -> set[int]:
        return self._product_items(self.product(head), rest)

    def _product_items(self, product: Product, rest: int) -> set[int]:
        """The items of a product and then `rest`: none if it cannot finish, plain ones if `right` no longer
        matters.
        """
        if self.right_no_longer_matters(product):
            return {
                item & ~CONTINUATION | self._append(item & CONTINUATION, rest)
                for item in self.states[product.left]
                if item != ACCEPT
            }
        head = self.product_head(product)
        return {head << 32 | rest} if self._is_live(head) else set()

    def product(self, head: int) -> Product:
        if self.twin_table is not None:
            return Product._make(self.twin_table.product(head))
        return self._products[head - PRODUCTS]

    def _is_live(self, head: int) -> bool:
        return self._liveness.is_live(head) if self.twin_table is None else self.twin_table.is_live(head)

    def _distance(self, head: int) -> int:
        return self._liveness.distance(head)

    def right_no_longer_matters(self, product: Product) -> bool:
        return product.right == (self._everything if product.both else DEAD)

    @cached_property
    def _everything(self) -> int:
        return self._start_of(self.expressions.any_string)

    def shortest(self, state: int) -> int:
        """Bytes of the shortest completion; FAR where products, rules or deferred expressions hide it."""
        return min((self._shortest_item(item) for item in self.states[state]), default=FAR)

    def _shortest_item(self, item: int) -> int:
        if item >> 32 >= PRODUCTS:
            return FAR
        head = item >> 32
        before = self.expressions.heads.shortest(head) if head < TEXTS else self.texts.left(head)
        known = self._shortest
        continuation = item & CONTINUATION
        path: list[int] = []
        while continuation not in known:
            path.append(continuation)
            continuation = self._continuations[continuation][1]
        length = known[continuation]
        for continuation in reversed(path):
            length = min(FAR, length + self.expressions.shortest(self._continuations[continuation][0]))
            known[continuation] = length
        return min(FAR, before + length)

    def relaxed(self, state: int) -> tuple[int, int]:
        """The state without its large counts, and how many bytes none of them can run out in."""
        known = self._relaxed.get(state)
        if known is None:
            items: set[int] = set()
            least = FAR
            for item in self.states[state]:
                head = item >> 32
                rest, room = self._relax(item & CONTINUATION)
                least = min(least, room)
                if head >= PRODUCTS:
                    head, room = self._liveness.relaxed(head)
                    least = min(least, room)
                    items |= self._product_items(self.product(head), rest)
                else:
                    items.add(head << 32 | rest)
            unchanged = items == set(self.states[state])
            known = (state, FAR) if unchanged else (self._number(items), least)
            self._relaxed[state] = known
            self._relaxed[known[0]] = known[0], FAR
        return known

    def _relax(self, continuation: int) -> tuple[int, int]:
        known = self._relaxed_continuations
        path: list[int] = []
        while continuation not in known:
            path.append(continuation)
            continuation = self._continuations[continuation][1]
        rest, room = known[continuation]
        for continuation in reversed(path):
            expression = self._continuations[continuation][0]
            node = self.expressions.nodes[expression]
            if isinstance(node, Repeat) and node.most >= _LARGE_COUNT:
                room = min(room, node.most)
                expression = self.expressions.repeat(node.body, node.least)
            rest = self._then(expression, rest)
            known[continuation] = rest, room
        return rest, room

    def product_head(self, product: Product) -> int:
        if self.twin_table is not None:
            return self.twin_table.product_head(*product)
        number = self._product_numbers.get(product)
        if number is None:
            if len(self._products) >= self.limits.states:
                raise GrammarTooLarge(f"more than {self.limits.states} states", limit="states")
            self._products.append(product)
            number = self._product_numbers[product] = PRODUCTS + len(self._products) - 1
        return number

    def product_successors(self, product: Product) -> Iterable[tuple[int, Product]]:
        both, left, right = product
        for mask, after_left in self.moves(left):
            remaining = mask
            for other, after_right in self.moves(right):
                common = remaining & other
                if common:
                    yield common, Product(both, after_left, after_right)
                    remaining &= ~common
            if remaining and not both:
                yield remaining, Product(both, after_left, DEAD)

    def _compute_product_edges(self, product: Product) -> Iterable[Edge]:
        for mask, successor in self.product_successors(product):
            head = self.product_head(successor)
            live, complete = self._is_live(head), self.product_accepts(successor)
            if live or complete:
                yield Edge(mask, head if live else NO_HEAD, complete)


@contextmanager
def judge(expressions: Expressions) -> Iterator[Callable[[Both | Without], bool]]:
    """Decides products with an automaton of its own, made at the first: it reads rules that pruning then
    changes.
    """
    automata: list[Automaton] = []

    def is_empty(product: Both | Without) -> bool:
        if type(product) is Without and _is_endless(expressions, product.left):
            right = expressions.nodes[product.right]
            if type(right) is Words and set(expressions.tables[right.table].follow) == {EMPTY}:
                return False  # some words do not exhaust it
        if not automata:
            automata.append(Automaton(expressions, EMPTY, pruned=True))
        return automata[0].is_empty(product)

    try:
        yield is_empty
    finally:
        for automaton in automata:
            automaton.close()


def _is_endless(expressions: Expressions, expression: int) -> bool:
    """Is it plain to see that it has strings of any length?"""
    node = expressions.nodes[expression]
    return expression < expressions.settled and type(node) is Repeat and node.most == ENDLESS
