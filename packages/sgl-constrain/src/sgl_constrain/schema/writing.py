# SPDX-License-Identifier: Apache-2.0
"""Sets of values -> expressions: one rule for each term, so schemas may be recursive. Everything reachable is
written at once, so that every refusal comes before the first token.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from sgl_constrain.errors import UnsupportedSchema
from sgl_constrain.expression import EMPTY, FAIL
from sgl_constrain.schema.arrays import write_array
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.conditions import Numbers, Strings
from sgl_constrain.schema.objects import write_object
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.reading import Reader
from sgl_constrain.schema.sets import ANY_NUMBERS, ANY_STRINGS, EVERYTHING, Values
from sgl_constrain.schema.strings import escape
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term

_MOST_LISTED = 200  # integers up to which a bounded range is written as a list
_CONSTANTS = {b"null": None, b"true": True, b"false": False}
_ANY_INTEGER = Numbers(integer=True)


class Writer:
    """Writes terms as rules of `expressions`. Raises UnsupportedSchema, or warns, where that cannot
    be exact.
    """

    def __init__(
        self,
        basics: Basics,
        patterns: Patterns,
        reader: Reader,
        *,
        any_order: bool,
    ) -> None:
        self.expressions = basics.expressions
        self.letters = basics.letters
        self.patterns = patterns
        self.reader = reader
        self.layout = basics.layout
        self.any_order = any_order
        self._numbers = basics.numbers
        self._quote = basics.quote
        self._any_string = basics.any_string
        self._rules: dict[Term, int] = {NEVER: FAIL}
        if basics.any_value is not None:
            self._rules[ANYTHING] = basics.any_value
        self._pending: list[tuple[Term, int]] = []
        self._path = ""

    def write(self, root: Term) -> int:
        """The texts of all values that `root` allows."""
        rule = self.value(root)
        while self._pending:
            term, pending = self._pending.pop()
            self._path = self.reader.document.paths[min((abs(number) for number in term), default=0)]
            self.expressions.define(pending, self._values(self.reader.values(term).forget_evaluated()))
        return rule

    def value(self, term: Term) -> int:
        """The rule for the texts of a term's values, to be written later."""
        rule = self._rules.get(term)
        if rule is None:
            rule = self._rules[term] = self.expressions.rule()
            self._pending.append((term, rule))
        return rule

    def refuse(self, keyword: str, reason: str) -> None:
        """Raises, or warns that `keyword` is not enforced."""
        refusal = UnsupportedSchema(reason, keyword=keyword, path=self._path)
        if not self.reader.lenient:
            raise refusal
        self.reader.warn(refusal)

    def _values(self, values: Values) -> int:
        e = self.expressions
        options: list[int] = []
        if values.constants:
            words = {word: EMPTY for word, value in _CONSTANTS.items() if value in values.constants}
            options.append(e.words(words))
        options += [self._number(condition) for condition in values.numbers]
        options += [self._string(condition) for condition in values.strings]
        options += [write_array(self, condition) for condition in values.arrays]
        options += [write_object(self, condition) for condition in values.objects]
        return options[0] if len(options) == 1 else e.choice(options)

    # -- numbers ---------------------------------------------------------------------------------------------

    def _number(self, n: Numbers) -> int:
        if n == ANY_NUMBERS[0]:
            return self._numbers.any_number
        if n == _ANY_INTEGER:
            return self._numbers.any_integer
        listed = self.integers(n)
        if listed is not None:
            return self.expressions.words({b"%d" % value: EMPTY for value in listed})
        texts = self._numbers.within(n.low, n.low_open, n.high, n.high_open, integer=n.integer)
        for divisor in sorted(n.multiples):
            multiples = self._multiples(divisor)
            texts = texts if multiples is None else self.expressions.both(texts, multiples)
        for divisor in sorted(n.not_multiples):
            multiples = self._multiples(divisor)
            texts = texts if multiples is None else self.expressions.without(texts, multiples)
        return texts

    def _multiples(self, divisor: Decimal) -> int | None:
        try:
            return self._numbers.multiples(divisor)
        except ValueError as error:
            self.refuse("multipleOf", str(error))
            return None

    def integers(self, n: Numbers) -> list[int] | None:
        """The whole numbers of a condition, if there are only these and not too many."""
        if not n.integer or n.low is None or n.high is None or n.high - n.low > _MOST_LISTED:
            return None
        first, last = (
            int(n.low.to_integral_value("ROUND_CEILING")),
            int(n.high.to_integral_value("ROUND_FLOOR")),
        )
        first += n.low_open and first == n.low
        last -= n.high_open and last == n.high
        return [
            value
            for value in range(first, last + 1)
            if all(Decimal(value) % divisor == 0 for divisor in n.multiples)
            and all(Decimal(value) % divisor != 0 for divisor in n.not_multiples)
        ]

    # -- strings ---------------------------------------------------------------------------------------------

    def _string(self, condition: Strings) -> int:
        if condition == ANY_STRINGS[0]:
            return self._any_string
        return self.expressions.sequence(self._quote, self.content(condition), self._quote)

    def content(self, condition: Strings) -> int:
        """What stands between the quotes."""
        e = self.expressions
        if condition.values is not None:
            return e.words({escape(v): EMPTY for v in condition.values if self.reader.holds(condition, v)})
        parts = [(self.patterns.search(pattern), holds) for pattern, holds in sorted(condition.patterns)]
        parts += [(self.patterns.format(name), holds) for name, holds in sorted(condition.formats)]
        content = self.letters.any_string
        if condition.low or condition.high is not None:
            most = -1 if condition.high is None else condition.high
            content = e.repeat(self.letters.any_character, condition.low, most)
        for part, holds in sorted(parts, key=lambda p: not p[1]):
            if holds and content == self.letters.any_string:
                content = part
            else:
                content = e.both(content, part) if holds else e.without(content, part)
        excluded = e.words({escape(value): EMPTY for value in condition.not_values})
        return e.without(content, excluded)

    def key(self, names: Iterable[Term], excluded: Iterable[str]) -> int:
        """Contents of strings that satisfy all of `names`, except those in `excluded`."""
        values = EVERYTHING
        for term in names:
            values = values.meet(self.reader.values(term), self.patterns.matches)
        bare = self.expressions.choice(self.content(strings) for strings in values.strings)
        return self.expressions.without(
            bare, self.expressions.words({escape(key): EMPTY for key in excluded})
        )

    def allows_key(self, names: Iterable[Term], key: str) -> bool:
        return all(any(self.reader.holds(s, key) for s in self.reader.values(term).strings) for term in names)
