# SPDX-License-Identifier: Apache-2.0
"""What keywords can say of the values of one type, as conjunctions: numbers, strings, arrays, objects.

Two conditions meet in one condition, or contradict each other (None). Where the opposite of a condition is
again a union of conditions, `opposites` yields it; the rest raises `NoComplement`. What an item or a property
must be is a `Term`, which is not looked into here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import NamedTuple, Protocol

from sgl_constrain.schema.terms import ANYTHING, NEVER, Term, meet, opposite


class NoComplement(Exception):
    """`keyword` cannot be negated exactly."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


class Numbers(NamedTuple):
    integer: bool | None = None  # whole numbers only, or no whole numbers
    low: Decimal | None = None
    low_open: bool = False
    high: Decimal | None = None
    high_open: bool = False
    multiples: frozenset[Decimal] = frozenset()
    not_multiples: frozenset[Decimal] = frozenset()

    @property
    def annotated(self) -> bool:
        return False

    def meet(self, other: Numbers) -> Numbers | None:
        if self.integer is not None and other.integer is not None and self.integer != other.integer:
            return None
        low, low_open = _tighter(self.low, self.low_open, other.low, other.low_open, max)
        high, high_open = _tighter(self.high, self.high_open, other.high, other.high_open, min)
        if low is not None and high is not None and (low > high or (low == high and (low_open or high_open))):
            return None
        return Numbers(
            self.integer if self.integer is not None else other.integer,
            low,
            low_open,
            high,
            high_open,
            self.multiples | other.multiples,
            self.not_multiples | other.not_multiples,
        )

    def opposites(self) -> Iterator[Numbers]:
        if self.integer is not None:
            yield Numbers(integer=not self.integer)
        if self.low is not None:
            yield Numbers(high=self.low, high_open=not self.low_open)
        if self.high is not None:
            yield Numbers(low=self.high, low_open=not self.high_open)
        for divisor in self.multiples:
            yield Numbers(not_multiples=frozenset((divisor,)))
        for divisor in self.not_multiples:
            yield Numbers(multiples=frozenset((divisor,)))


def _tighter(
    left: Decimal | None,
    left_open: bool,
    right: Decimal | None,
    right_open: bool,
    choose: Callable[[Decimal, Decimal], Decimal],
) -> tuple[Decimal | None, bool]:
    if left is None or right is None:
        return (right, right_open) if left is None else (left, left_open)
    if left == right:
        return left, left_open or right_open
    return (left, left_open) if choose(left, right) == left else (right, right_open)


class Strings(NamedTuple):
    low: int = 0
    high: int | None = None
    patterns: frozenset[tuple[str, bool]] = frozenset()  # (pattern, must it match or must it not)
    formats: frozenset[tuple[str, bool]] = frozenset()
    values: frozenset[str] | None = None
    not_values: frozenset[str] = frozenset()

    @property
    def annotated(self) -> bool:
        return False

    def meet(self, other: Strings) -> Strings | None:
        low, high = max(self.low, other.low), _least(self.high, other.high)
        values = self.values if other.values is None else other.values
        if self.values is not None and other.values is not None:
            values = self.values & other.values
        excluded = self.not_values | other.not_values
        if values is not None:
            values, excluded = values - excluded, frozenset()
        both = [self.patterns | other.patterns, self.formats | other.formats]
        contradicts = any(
            (name, not holds) in conditions for conditions in both for name, holds in conditions
        )
        if (high is not None and low > high) or values == frozenset() or contradicts:
            return None
        return Strings(low, high, both[0], both[1], values, excluded)

    def opposites(self) -> Iterator[Strings]:
        if self.low:
            yield Strings(high=self.low - 1)
        if self.high is not None:
            yield Strings(low=self.high + 1)
        for pattern, holds in sorted(self.patterns):
            yield Strings(patterns=frozenset(((pattern, not holds),)))
        for name, holds in sorted(self.formats):
            yield Strings(formats=frozenset(((name, not holds),)))
        if self.values is not None:
            yield Strings(not_values=self.values)
        if self.not_values:
            yield Strings(values=self.not_values)


class Contains(NamedTuple):
    """How many items, from index `start` on, satisfy `term`."""

    term: Term
    low: int
    high: int | None
    start: int = 0


class Arrays(NamedTuple):
    prefix: tuple[Term, ...] = ()
    rest: Term = ANYTHING
    low: int = 0
    high: int | None = None
    contains: frozenset[Contains] = frozenset()
    unique: bool = False
    evaluated: int | None = 0  # how many items from the front some keyword looked at; None: all of them
    evaluated_kinds: frozenset[Term] = frozenset()  # and items that satisfy one of these

    @property
    def annotated(self) -> bool:
        return self.evaluated != 0 or bool(self.evaluated_kinds)

    def item(self, index: int) -> Term:
        return self.prefix[index] if index < len(self.prefix) else self.rest

    def meet(self, other: Arrays) -> Arrays | None:
        low, high = max(self.low, other.low), _least(self.high, other.high)
        if high is not None and low > high:
            return None
        length = max(len(self.prefix), len(other.prefix))
        evaluated = None
        if self.evaluated is not None and other.evaluated is not None:
            evaluated = max(self.evaluated, other.evaluated)
        return Arrays(
            tuple(meet(self.item(i), other.item(i)) for i in range(length)),
            meet(self.rest, other.rest),
            low,
            high,
            self.contains | other.contains,
            self.unique or other.unique,
            evaluated,
            self.evaluated_kinds | other.evaluated_kinds,
        )

    def opposites(self) -> Iterator[Arrays]:
        for i, term in enumerate(self.prefix):
            for wrong in opposite(term):
                yield Arrays(prefix=(ANYTHING,) * i + (wrong,), low=i + 1)
        if self.rest == NEVER:
            yield Arrays(low=len(self.prefix) + 1)
        elif self.rest:
            yield from (
                Arrays(contains=frozenset((Contains(wrong, 1, None, len(self.prefix)),)))
                for wrong in opposite(self.rest)
            )
        if self.low:
            yield Arrays(high=self.low - 1)
        if self.high is not None:
            yield Arrays(low=self.high + 1)
        for some in sorted(self.contains, key=repr):
            if some.low:
                yield Arrays(contains=frozenset((some._replace(low=0, high=some.low - 1),)))
            if some.high is not None:
                yield Arrays(contains=frozenset((some._replace(low=some.high + 1, high=None),)))
        if self.unique:
            raise NoComplement("uniqueItems")


class Layer(NamedTuple):
    """What one schema says of the keys it does not name: the terms of the patterns that match, or
    `fallback`.
    """

    patterns: tuple[tuple[str, Term], ...]
    fallback: Term


class Matches(Protocol):
    def __call__(self, pattern: str, text: str) -> bool: ...


class Some(NamedTuple):
    """At least one key of a kind has a value that satisfies `term`. Made as the opposite of what a schema
    says of the keys it does not name, so the kind is one that a Layer, or `Objects.names`, can tell apart.
    """

    excluded: frozenset[str]  # not one of these keys,
    patterns: frozenset[tuple[str, bool]]  # and it matches these patterns, or must not,
    name: Term  # and it satisfies this, as a string
    term: Term
    keyword: str

    def opposite(self) -> Objects:
        """Every key of the kind has another value."""
        if self.name:
            return Objects(names=frozenset(opposite(self.name)))
        (wrong,) = opposite(self.term) if self.term else (NEVER,)
        named = tuple((key, ANYTHING) for key in sorted(self.excluded))
        matching = [pattern for pattern, holds in self.patterns if holds]
        if matching:
            layer = Layer(tuple((pattern, wrong) for pattern in matching), ANYTHING)
        else:
            layer = Layer(tuple((pattern, ANYTHING) for pattern, _ in sorted(self.patterns)), wrong)
        return Objects(named, (layer,))


class Objects(NamedTuple):
    named: tuple[tuple[str, Term], ...] = ()  # in the order in which they are written
    layers: tuple[Layer, ...] = ()  # for every other key, all of them hold
    required: frozenset[str] = frozenset()
    names: frozenset[Term] = frozenset()  # what every key must be, as a string
    low: int = 0
    high: int | None = None
    some: frozenset[Some] = frozenset()
    seen: frozenset[str] = frozenset()  # keys that some keyword looked at
    seen_patterns: frozenset[str] = frozenset()
    seen_all: bool = False

    @property
    def annotated(self) -> bool:
        return self.seen_all or bool(self.seen or self.seen_patterns)

    def unnamed(self, key: str, matches: Matches) -> Term:
        """What the layers say of a key."""
        term = ANYTHING
        for layer in self.layers:
            found = [wanted for pattern, wanted in layer.patterns if matches(pattern, key)]
            for wanted in found or [layer.fallback]:
                term = meet(term, wanted)
        return term

    def join(self, other: Objects, matches: Matches) -> Objects | None:
        low, high = max(self.low, other.low), _least(self.high, other.high)
        left, right = dict(self.named), dict(other.named)
        if not right and not other.layers:
            named = left
        elif not left and not self.layers:
            named = right
        else:
            named = {
                key: meet(
                    left[key] if key in left else self.unnamed(key, matches),
                    right[key] if key in right else other.unnamed(key, matches),
                )
                for key in (*left, *(key for key in right if key not in left))
            }
        required = self.required | other.required
        if high is not None and (low > high or len(required) > high):
            return None
        if any(named.get(key) == NEVER for key in required):
            return None
        return Objects(
            tuple(named.items()),
            tuple(dict.fromkeys((*self.layers, *other.layers))),
            required,
            self.names | other.names,
            low,
            high,
            self.some | other.some,
            self.seen | other.seen,
            self.seen_patterns | other.seen_patterns,
            self.seen_all or other.seen_all,
        )

    def opposites(self) -> Iterator[Objects]:
        for key in sorted(self.required):
            yield Objects(named=((key, NEVER),))
        for key, term in self.named:
            for wrong in opposite(term):
                yield Objects(named=((key, wrong),), required=frozenset((key,)))
        names = frozenset(key for key, _ in self.named)
        for layer in self.layers:
            for pattern, term in layer.patterns:
                for wrong in opposite(term):
                    kind = frozenset(((pattern, True),))
                    yield Objects(some=frozenset((Some(names, kind, ANYTHING, wrong, "patternProperties"),)))
            for wrong in opposite(layer.fallback):
                kind = frozenset((pattern, False) for pattern, _ in layer.patterns)
                yield Objects(some=frozenset((Some(names, kind, ANYTHING, wrong, "additionalProperties"),)))
        for term in sorted(self.names, key=sorted):
            for wrong in opposite(term):
                some = Some(frozenset(), frozenset(), wrong, ANYTHING, "propertyNames")
                yield Objects(some=frozenset((some,)))
        for some in sorted(self.some, key=repr):
            yield some.opposite()
        if self.low:
            yield Objects(high=self.low - 1)
        if self.high is not None:
            yield Objects(low=self.high + 1)


def _least(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else min(left, right)
