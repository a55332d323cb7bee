# SPDX-License-Identifier: Apache-2.0
"""Sets of JSON values: for each type a union of conditions. They can be intersected, united, and complemented
where every condition has an opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import MAX_PREC, Context, Decimal
from typing import Any, Final, NamedTuple, TypeVar, cast

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.schema.conditions import Arrays, Layer, Matches, Numbers, Objects, Strings
from sgl_constrain.schema.terms import NEVER, Term

EXACT: Final = Context(prec=MAX_PREC)  # the usual one rounds what it works out to 28 digits
_MOST_DIGITS = 400
_MOST_CONDITIONS = 2000  # in one union
_MOST_PAIRS = 200_000  # in one intersection of unions


# Nothing is asked. Shared, so that nearly always a look at the identity tells.
ANY_NUMBERS: Final = (Numbers(),)
ANY_STRINGS: Final = (Strings(),)
ANY_ARRAYS: Final = (Arrays(),)
ANY_OBJECTS: Final = (Objects(),)


class Values(NamedTuple):
    """A set of JSON values: which of null and the booleans, and unions of conditions for the other types."""

    constants: frozenset[bool | None] = frozenset((None, False, True))
    numbers: tuple[Numbers, ...] = ANY_NUMBERS
    strings: tuple[Strings, ...] = ANY_STRINGS
    arrays: tuple[Arrays, ...] = ANY_ARRAYS
    objects: tuple[Objects, ...] = ANY_OBJECTS

    def meet(self, other: Values, matches: Matches) -> Values:
        if self is EVERYTHING or other is EVERYTHING:
            return other if self is EVERYTHING else self
        return Values(
            self.constants & other.constants,
            _product(self.numbers, other.numbers, ANY_NUMBERS, Numbers.meet),
            _product(self.strings, other.strings, ANY_STRINGS, Strings.meet),
            _product(self.arrays, other.arrays, ANY_ARRAYS, Arrays.meet),
            _product(self.objects, other.objects, ANY_OBJECTS, lambda o, other: o.join(other, matches)),
        )

    def if_number(self, condition: Numbers) -> Values:
        """The same, but only those numbers that also meet a condition."""
        constants, numbers, strings, arrays, objects = self
        numbers = _product(numbers, (condition,), ANY_NUMBERS, Numbers.meet)
        return Values(constants, numbers, strings, arrays, objects)

    def if_string(self, condition: Strings) -> Values:
        constants, numbers, strings, arrays, objects = self
        strings = _product(strings, (condition,), ANY_STRINGS, Strings.meet)
        return Values(constants, numbers, strings, arrays, objects)

    def if_array(self, condition: Arrays) -> Values:
        constants, numbers, strings, arrays, objects = self
        arrays = _product(arrays, (condition,), ANY_ARRAYS, Arrays.meet)
        return Values(constants, numbers, strings, arrays, objects)

    def if_object(self, condition: Objects, matches: Matches) -> Values:
        constants, numbers, strings, arrays, objects = self
        objects = _product(objects, (condition,), ANY_OBJECTS, lambda o, other: o.join(other, matches))
        return Values(constants, numbers, strings, arrays, objects)

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
            _complement(self.numbers, ANY_NUMBERS, Numbers.meet),
            _complement(self.strings, ANY_STRINGS, Strings.meet),
            _complement(self.arrays, ANY_ARRAYS, Arrays.meet),
            _complement(self.objects, ANY_OBJECTS, lambda o, other: o.join(other, matches)),
        )

    def forget_evaluated(self) -> Values:
        """The same values, without what keywords looked at: for a place that another schema's
        keywords cannot see.
        """
        if not any(a.annotated for a in self.arrays) and not any(o.annotated for o in self.objects):
            return self
        return self._replace(
            arrays=_union(
                (), tuple(array._replace(evaluated=0, evaluated_kinds=frozenset()) for array in self.arrays)
            ),
            objects=_union(
                (),
                tuple(
                    o._replace(seen=frozenset(), seen_patterns=frozenset(), seen_all=False)
                    for o in self.objects
                ),
            ),
        )


EVERYTHING: Final = Values()
NOTHING: Final = Values(frozenset(), (), (), (), ())

# meet: both conditions, None when they contradict each other. opposites: conditions of which at least one
# holds exactly where this one does not.
T = TypeVar("T", bound=Numbers | Strings | Arrays | Objects)


def _union(left: Iterable[T], right: Iterable[T]) -> tuple[T, ...]:
    conditions: tuple[T, ...] = (*left, *right)
    if len(conditions) <= 1:
        return conditions
    conditions = tuple(dict.fromkeys(conditions))
    if len(conditions) > _MOST_CONDITIONS:
        raise GrammarTooLarge(f"more than {_MOST_CONDITIONS} alternatives in one place", limit="expressions")
    # A condition that everything meets makes the others superfluous, unless they remember what was looked at.
    for condition in conditions:
        if condition == type(condition)() and not any(other.annotated for other in conditions):
            return (condition,)
    return conditions


def _product(
    left: tuple[T, ...], right: tuple[T, ...], whole: tuple[T, ...], meet: Callable[[T, T], T | None]
) -> tuple[T, ...]:
    if left is whole or right is whole:
        return right if left is whole else left
    if not left or not right:
        return ()
    if left == whole or right == whole:
        return right if left == whole else left
    if left == right and len(left) == 1:
        return left
    if len(left) * len(right) > _MOST_PAIRS:
        raise GrammarTooLarge(
            f"more than {_MOST_PAIRS} pairs of alternatives in one place", limit="expressions"
        )
    return _union((), (m for a in left for b in right if (m := meet(a, b)) is not None))


def _complement(
    conditions: Iterable[T], whole: tuple[T, ...], meet: Callable[[T, T], T | None]
) -> tuple[T, ...]:
    left = whole
    for condition in conditions:
        opposites = cast(Iterator[T], condition.opposites())
        left = _product(left, tuple(opposites), whole, meet)
    return left


def of_value(value: Any, constant: Callable[[Any], Term]) -> Values:
    """Exactly one value; `constant` makes the term that allows one value only."""
    if value is None or isinstance(value, bool):
        return NOTHING._replace(constants=frozenset((value,)))
    if isinstance(value, str):
        return NOTHING._replace(strings=(Strings(values=frozenset((value,))),))
    if isinstance(value, list | tuple):
        terms = tuple(constant(item) for item in value)
        return NOTHING._replace(arrays=(Arrays(terms, NEVER, len(terms), len(terms)),))
    if isinstance(value, dict):
        named = tuple((str(key), constant(item)) for key, item in value.items())
        whole = Objects(named, (Layer((), NEVER),), frozenset(key for key, _ in named))
        return NOTHING._replace(objects=(whole,))
    number = decimal(value)
    whole_number = True if number == number.to_integral_value() else None
    return NOTHING._replace(numbers=(Numbers(whole_number, number, False, number, False),))


def decimal(value: Any) -> Decimal:
    """A JSON number, exactly as written. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{value!r} is not a number")
    number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _MOST_DIGITS:
        raise ValueError(f"{value!r} is not a JSON number, or has more than {_MOST_DIGITS} digits")
    return number or Decimal(0)  # without the sign of -0
