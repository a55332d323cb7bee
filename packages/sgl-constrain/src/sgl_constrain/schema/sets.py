# SPDX-License-Identifier: Apache-2.0
"""Sets of JSON values: for each type a union of conditions, each a conjunction of what keywords can say.

Sets can be intersected always, and complemented where every condition has an opposite that is again a
condition; the rest raises `NoComplement`. What an item or a property must be is a `Term`, which is not looked
into here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar, Final, Protocol, TypeVar, cast

from sgl_constrain.errors import GrammarTooLarge

# The subschemas that must hold, and (negative) those that must not. The empty term allows everything.
Term = frozenset[int]
ANYTHING: Final[Term] = frozenset()
NEVER: Final[Term] = frozenset((0,))  # subschema 0 is `false`, and has no opposite

_MOST_DIGITS = 400
_MOST_CONDITIONS = 400  # in one union


def opposite(term: Term) -> Iterator[Term]:
    """The terms of which at least one holds exactly where `term` does not."""
    for number in term:
        yield ANYTHING if number == 0 else frozenset((-number,))


def meet(left: Term, right: Term) -> Term:
    term = left | right
    if 0 in term or any(-number in term for number in term):
        return NEVER
    return term


class NoComplement(Exception):
    """`keyword` cannot be negated exactly."""

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword


@dataclass(frozen=True)
class Numbers:
    integer: bool | None = None  # whole numbers only, or no whole numbers
    low: Decimal | None = None
    low_open: bool = False
    high: Decimal | None = None
    high_open: bool = False
    multiples: frozenset[Decimal] = frozenset()
    not_multiples: frozenset[Decimal] = frozenset()

    annotated: ClassVar[bool] = False

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


@dataclass(frozen=True)
class Strings:
    low: int = 0
    high: int | None = None
    patterns: frozenset[tuple[str, bool]] = frozenset()  # (pattern, must it match or must it not)
    formats: frozenset[tuple[str, bool]] = frozenset()
    values: frozenset[str] | None = None
    not_values: frozenset[str] = frozenset()

    annotated: ClassVar[bool] = False

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
        for pattern, holds in self.patterns:
            yield Strings(patterns=frozenset(((pattern, not holds),)))
        for name, holds in self.formats:
            yield Strings(formats=frozenset(((name, not holds),)))
        if self.values is not None:
            yield Strings(not_values=self.values)
        if self.not_values:
            yield Strings(values=self.not_values)


@dataclass(frozen=True)
class Contains:
    term: Term
    low: int
    high: int | None


@dataclass(frozen=True)
class Arrays:
    prefix: tuple[Term, ...] = ()
    rest: Term = ANYTHING
    low: int = 0
    high: int | None = None
    contains: frozenset[Contains] = frozenset()
    unique: bool = False
    evaluated: int | None = 0  # how many items from the front some keyword looked at; None: all of them

    @property
    def annotated(self) -> bool:
        return self.evaluated != 0

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
        )

    def opposites(self) -> Iterator[Arrays]:
        for i, term in enumerate(self.prefix):
            for wrong in opposite(term):
                yield Arrays(prefix=(ANYTHING,) * i + (wrong,), low=i + 1)
        if self.rest == NEVER:
            yield Arrays(low=len(self.prefix) + 1)
        elif self.rest:
            if self.prefix:
                raise NoComplement("items")
            yield from (
                Arrays(contains=frozenset((Contains(wrong, 1, None),))) for wrong in opposite(self.rest)
            )
        if self.low:
            yield Arrays(high=self.low - 1)
        if self.high is not None:
            yield Arrays(low=self.high + 1)
        for some in self.contains:
            if some.low:
                yield Arrays(contains=frozenset((Contains(some.term, 0, some.low - 1),)))
            if some.high is not None:
                yield Arrays(contains=frozenset((Contains(some.term, some.high + 1, None),)))
        if self.unique:
            raise NoComplement("uniqueItems")


@dataclass(frozen=True)
class Layer:
    """What one schema says of the keys it does not name: the terms of the patterns that match, or
    `fallback`.
    """

    patterns: tuple[tuple[str, Term], ...]
    fallback: Term


class Matches(Protocol):
    def __call__(self, pattern: str, text: str) -> bool: ...


@dataclass(frozen=True)
class Objects:
    named: tuple[tuple[str, Term], ...] = ()  # in the order in which they are written
    layers: tuple[Layer, ...] = ()  # for every other key, all of them hold
    required: frozenset[str] = frozenset()
    names: frozenset[Term] = frozenset()  # what every key must be, as a string
    low: int = 0
    high: int | None = None
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
        for layer in self.layers:
            if layer.fallback or any(term for _, term in layer.patterns):
                raise NoComplement("additionalProperties" if layer.fallback else "patternProperties")
        if self.names:
            raise NoComplement("propertyNames")
        if self.low:
            yield Objects(high=self.low - 1)
        if self.high is not None:
            yield Objects(low=self.high + 1)


def _least(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else min(left, right)


@dataclass(frozen=True)
class Values:
    """A set of JSON values: which of null and the booleans, and unions of conditions for the other types."""

    constants: frozenset[bool | None] = frozenset((None, False, True))
    numbers: tuple[Numbers, ...] = (Numbers(),)
    strings: tuple[Strings, ...] = (Strings(),)
    arrays: tuple[Arrays, ...] = (Arrays(),)
    objects: tuple[Objects, ...] = (Objects(),)

    def meet(self, other: Values, matches: Matches) -> Values:
        return Values(
            self.constants & other.constants,
            _product(self.numbers, other.numbers, Numbers.meet),
            _product(self.strings, other.strings, Strings.meet),
            _product(self.arrays, other.arrays, Arrays.meet),
            _product(self.objects, other.objects, lambda left, right: left.join(right, matches)),
        )

    def union(self, other: Values) -> Values:
        return Values(
            self.constants | other.constants,
            _union(self.numbers, other.numbers),
            _union(self.strings, other.strings),
            _union(self.arrays, other.arrays),
            _union(self.objects, other.objects),
        )

    def complement(self, matches: Matches) -> Values:
        return Values(
            EVERYTHING.constants - self.constants,
            _complement(self.numbers, Numbers(), Numbers.meet),
            _complement(self.strings, Strings(), Strings.meet),
            _complement(self.arrays, Arrays(), Arrays.meet),
            _complement(self.objects, Objects(), lambda left, right: left.join(right, matches)),
        )

    def forget_evaluated(self) -> Values:
        """The same values, without what keywords looked at: for a place that another schema's
        keywords cannot see.
        """
        return replace(
            self,
            arrays=_union((), tuple(replace(array, evaluated=0) for array in self.arrays)),
            objects=_union(
                (),
                tuple(
                    replace(o, seen=frozenset(), seen_patterns=frozenset(), seen_all=False)
                    for o in self.objects
                ),
            ),
        )

    @property
    def is_nothing(self) -> bool:
        return self == NOTHING


EVERYTHING: Final = Values()
NOTHING: Final = Values(frozenset(), (), (), (), ())

# meet: both conditions, None when they contradict each other. opposites: conditions of which at least one
# holds exactly where this one does not.
T = TypeVar("T", bound=Numbers | Strings | Arrays | Objects)


def _union(left: Iterable[T], right: Iterable[T]) -> tuple[T, ...]:
    conditions: tuple[T, ...] = tuple(dict.fromkeys((*left, *right)))
    if len(conditions) > _MOST_CONDITIONS:
        raise GrammarTooLarge(f"more than {_MOST_CONDITIONS} alternatives in one place", limit="expressions")
    # A condition that everything meets makes the others superfluous, unless they remember what was looked at.
    for condition in conditions:
        if condition == type(condition)() and not any(other.annotated for other in conditions):
            return (condition,)
    return conditions


def _product(left: tuple[T, ...], right: tuple[T, ...], meet: Callable[[T, T], T | None]) -> tuple[T, ...]:
    if left == right and len(left) <= 1:
        return left
    for whole, other in ((left, right), (right, left)):
        if len(whole) == 1 and whole[0] == type(whole[0])():
            return other
    return _union((), (m for a in left for b in right if (m := meet(a, b)) is not None))


def _complement(conditions: Iterable[T], whole: T, meet: Callable[[T, T], T | None]) -> tuple[T, ...]:
    left: tuple[T, ...] = (whole,)
    for condition in conditions:
        opposites = cast(Iterator[T], condition.opposites())
        left = _product(left, tuple(opposites), meet)
    return left


def of_value(value: Any, constant: Callable[[Any], Term]) -> Values:
    """Exactly one value; `constant` makes the term that allows one value only."""
    if value is None or isinstance(value, bool):
        return replace(NOTHING, constants=frozenset((value,)))
    if isinstance(value, str):
        return replace(NOTHING, strings=(Strings(values=frozenset((value,))),))
    if isinstance(value, list | tuple):
        terms = tuple(constant(item) for item in value)
        return replace(NOTHING, arrays=(Arrays(terms, NEVER, len(terms), len(terms)),))
    if isinstance(value, dict):
        named = tuple((str(key), constant(item)) for key, item in value.items())
        whole = Objects(named, (Layer((), NEVER),), frozenset(key for key, _ in named))
        return replace(NOTHING, objects=(whole,))
    number = decimal(value)
    whole_number = True if number == number.to_integral_value() else None
    return replace(NOTHING, numbers=(Numbers(whole_number, number, False, number, False),))


def decimal(value: Any) -> Decimal:
    """A JSON number, exactly as written. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{value!r} is not a number")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError(f"{value!r} is not a JSON number, or has more than {_MOST_DIGITS} digits")
    return number
