# SPDX-License-Identifier: Apache-2.0
"""Numbers as JSON writes them: which decimal texts have a value within bounds, or divisible by something.

A number nothing is asked of may have an exponent; one that must meet a condition is written without. An
integer has no fraction (`1`, not `1.0`). Comparing decimal texts digit by digit is regular, and so is long
division by a fixed number.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction

from sgl_constrain.expression import EMPTY, FAIL, Expressions, shallow
from sgl_constrain.schema.sets import EXACT

MOST_REMAINDERS = 4096  # a larger divisor would need as many rules


class NumberTexts:
    """Expressions for the texts of numbers, over one table of expressions."""

    def __init__(self, expressions: Expressions) -> None:
        self._e = expressions
        e = expressions
        self._digit = self._digits(0, 9)
        self._nonzero = self._digits(1, 9)
        self._zeros = e.repeat(e.literal("0"), 0)
        self._some_digits = e.repeat(self._digit, 0)
        self._point = e.literal(".")
        minus = e.optional(e.literal("-"))
        self._natural = e.choice([e.literal("0"), e.sequence(self._nonzero, self._some_digits)])
        self._fraction = e.sequence(self._point, e.repeat(self._digit, 1))
        exponent = e.sequence(
            e.character(((0x45, 0x45), (0x65, 0x65))),
            e.optional(e.character(((0x2B, 0x2B), (0x2D, 0x2D)))),
            e.repeat(self._digit, 1),
        )
        self.any_integer = e.sequence(minus, self._natural)
        self.any_number = e.sequence(self.any_integer, e.optional(self._fraction), e.optional(exponent))
        self._multiples: dict[Decimal, int] = {}

    def over(self, expressions: Expressions) -> NumberTexts:
        """The same over a copy of the table."""
        other = shallow(self)
        other._e, other._multiples = expressions, self._multiples.copy()
        return other

    def within(
        self,
        low: Decimal | None,
        low_open: bool,
        high: Decimal | None,
        high_open: bool,
        *,
        integer: bool | None,
    ) -> int:
        """Texts without exponent whose value is within bounds; `integer` False: and not a whole number."""
        e, zero = self._e, Decimal(0)
        options: list[int] = []
        bound, is_open = (zero, False) if low is None or low < 0 else (low, low_open)
        if has_number(bound, is_open, high, high_open, integer=integer):
            options.append(self._magnitude(bound, is_open, high, high_open, integer))
        bound, is_open = (zero, True) if high is None or high >= 0 else (high.copy_negate(), high_open)
        least = None if low is None else low.copy_negate()
        if has_number(bound, is_open, least, low_open, integer=integer):
            below = self._magnitude(bound, is_open, least, low_open, integer)
            options.append(e.sequence(e.literal("-"), below))
        return e.choice(options)

    def multiples(self, divisor: Decimal) -> int:
        """Texts without exponent, of either sign, whose value is a multiple of `divisor` > 0.

        Raises ValueError when that takes more than MOST_REMAINDERS remainders.
        """
        known = self._multiples.get(divisor)
        if known is None:
            known = self._multiples[divisor] = self._divisible(divisor)
        return known

    def _digits(self, first: int, last: int) -> int:
        return self._e.character(((0x30 + first, 0x30 + last),)) if first <= last else FAIL

    def _magnitude(
        self, low: Decimal, low_open: bool, high: Decimal | None, high_open: bool, integer: bool | None
    ) -> int:
        e = self._e
        if integer:
            least, most = _whole_numbers(low, low_open, high, high_open)
            return self._whole(least, most)
        texts = self._bounded(low, low_open, high, high_open)
        if integer is None:
            return texts
        fraction = e.sequence(self._point, self._some_digits, self._nonzero, self._some_digits)
        return e.both(e.sequence(self._natural, fraction), texts)

    def _bounded(self, low: Decimal, low_open: bool, high: Decimal | None, high_open: bool) -> int:
        """Those with the same whole part as a bound, and those between."""
        e = self._e
        first, last = _split(low), None if high is None else _split(high)
        least, most = int(first[0]), None if last is None else int(last[0]) - 1
        options: list[int] = []
        if first[1] or low_open:
            if last is not None and last[0] == first[0]:
                return e.both(self._from(*first, low_open), self._up_to(*last, high_open))
            options.append(self._from(*first, low_open))
            least += 1
        if most is None or least <= most:
            options.append(e.sequence(self._whole(least, most), e.optional(self._fraction)))
        if last is not None:
            options.append(self._up_to(*last, high_open))
        return e.choice(options)

    def _whole(self, least: int, most: int | None) -> int:
        """The numbers least..most, digit by digit."""
        e, first = self._e, str(least)
        if most is None and least == 0:
            return self._natural
        if most is None:
            longer = e.sequence(self._nonzero, e.repeat(self._digit, len(first)))
            return e.choice([self._between(first, "9" * len(first)), longer])
        last = str(most)
        if len(first) == len(last):
            return self._between(first, last)
        options = [self._between(first, "9" * len(first))]
        if len(last) > len(first) + 1:
            options.append(e.sequence(self._nonzero, e.repeat(self._digit, len(first), len(last) - 2)))
        options.append(self._between("1" + "0" * (len(last) - 1), last))
        return e.choice(options)

    def _between(self, first: str, last: str) -> int:
        """The texts first..last, of as many digits."""
        e, alike = self._e, 0
        while alike < len(first) and first[alike] == last[alike]:
            alike += 1
        prefix = e.literal(first[:alike])
        if alike == len(first):
            return prefix
        below, above = int(first[alike]), int(last[alike])
        first, last, left = first[alike + 1 :], last[alike + 1 :], len(first) - alike - 1
        options: list[int] = []
        if first.strip("0"):
            options.append(e.sequence(e.literal(str(below)), self._between(first, "9" * left)))
            below += 1
        if last.strip("9"):
            options.append(e.sequence(e.literal(str(above)), self._between("0" * left, last)))
            above -= 1
        options.append(e.sequence(self._digits(below, above), e.repeat(self._digit, left, left)))
        return e.sequence(prefix, e.choice(options))

    def _from(self, whole: str, part: str, is_open: bool) -> int:
        """Texts that begin with `whole` and are `whole.part` or more."""
        e = self._e
        positive = e.sequence(self._some_digits, self._nonzero, self._some_digits)
        if not part:
            tail = e.sequence(self._point, positive) if is_open else e.optional(self._fraction)
            return e.sequence(e.literal(whole), tail)
        equal = e.sequence(e.literal(part), positive if is_open else self._some_digits)
        above = [
            e.sequence(e.literal(part[:i]), self._digits(int(digit) + 1, 9), self._some_digits)
            for i, digit in enumerate(part)
        ]
        return e.sequence(e.literal(whole + "."), e.choice([equal, *above]))

    def _up_to(self, whole: str, part: str, is_open: bool) -> int:
        """Texts that begin with `whole` and are `whole.part` or less."""
        e = self._e
        below = [
            e.sequence(e.literal(part[:i]), self._digits(0, int(digit) - 1), self._some_digits)
            for i, digit in enumerate(part)
        ]
        shorter = [e.literal(part[:i]) for i in range(1, len(part))]
        equal = (
            []
            if is_open
            else [e.sequence(e.literal(part), self._zeros if part else e.repeat(e.literal("0"), 1))]
        )
        options = [e.sequence(e.literal(whole + "."), e.choice([*below, *shorter, *equal]))]
        if part or not is_open:
            options.append(e.literal(whole))
        return e.choice(options)

    def _divisible(self, divisor: Decimal) -> int:
        """Long division: a rule for each remainder, before the point and for each place after it."""
        e = self._e
        exponent = divisor.normalize(EXACT).as_tuple().exponent
        assert isinstance(exponent, int)
        places = max(-exponent, 0)
        modulus = int(divisor.scaleb(places, EXACT))
        if modulus * (places + 1) > MOST_REMAINDERS:
            raise ValueError(f"dividing by {divisor} takes more than {MOST_REMAINDERS} remainders")
        before = [e.rule() for _ in range(modulus)]
        after = [[e.rule() for _ in range(modulus)] for _ in range(places + 1)]
        for remainder in range(modulus):
            options = {b"%d" % d: before[(10 * remainder + d) % modulus] for d in range(10)}
            options[b"."] = self._places(after, 0, remainder, modulus)
            ends = EMPTY if remainder * 10**places % modulus == 0 else FAIL
            e.define(before[remainder], e.choice([e.words(options), ends]))
            for place in range(places + 1):
                ends = EMPTY if remainder * 10 ** (places - place) % modulus == 0 else FAIL
                more = self._places(after, place, remainder, modulus)
                e.define(after[place][remainder], e.choice([more, ends]))
        start = {b"%d" % d: before[d % modulus] for d in range(1, 10)}
        zero = e.sequence(
            e.literal("0"), e.optional(e.sequence(self._point, self._places(after, 0, 0, modulus)))
        )
        return e.sequence(e.optional(e.literal("-")), e.choice([e.words(start), zero]))

    def _places(self, after: list[list[int]], place: int, remainder: int, modulus: int) -> int:
        """One more digit after the point, where `place` digits stand already; past the last place
        only zeros.
        """
        if place + 1 == len(after):
            return self._e.words({b"0": after[place][remainder]})
        return self._e.words({b"%d" % d: after[place + 1][(10 * remainder + d) % modulus] for d in range(10)})


def _whole_numbers(
    low: Decimal, low_open: bool, high: Decimal | None, high_open: bool
) -> tuple[int, int | None]:
    """The least and the largest within bounds; None without one above."""
    least = int(low.to_integral_value(ROUND_CEILING))
    least += low_open and least == low
    if high is None:
        return least, None
    most = int(high.to_integral_value(ROUND_FLOOR))
    return least, most - (high_open and most == high)


def has_number(
    low: Decimal | None, low_open: bool, high: Decimal | None, high_open: bool, *, integer: bool | None
) -> bool:
    """Is there a number within bounds? `integer`: a whole number, or (False) one that is not."""
    if low is None or high is None:
        return True
    if not integer:
        is_whole = integer is not None and low == low.to_integral_value()
        return low < high or (low == high and not low_open and not high_open and not is_whole)
    least, most = _whole_numbers(low, low_open, high, high_open)
    return most is None or least <= most


def is_multiple(value: int, divisor: Decimal) -> bool:
    """Exactly: the remainder of decimals is refused where the quotient has many digits."""
    return Fraction(value) % Fraction(divisor) == 0


def _split(bound: Decimal) -> tuple[str, str]:
    """Digits before and after the point, without zeros that say nothing."""
    whole, _, part = format(bound, "f").partition(".")
    return whole.lstrip("0") or "0", part.rstrip("0")
