# SPDX-License-Identifier: Apache-2.0
"""Sets of values -> expressions: one rule for each term, so schemas may be recursive. Everything reachable is
read at once, and written at once unless it is certain that it can be (`certain`), so that every refusal comes
before the first token.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Sequence
from decimal import Decimal
from typing import cast

from sgl_constrain.errors import UnsupportedSchema
from sgl_constrain.expression import EMPTY, FAIL
from sgl_constrain.schema.arrays import write_array
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.certain import Parts, certain, parts
from sgl_constrain.schema.conditions import Numbers, Strings
from sgl_constrain.schema.glance import glance
from sgl_constrain.schema.numbers import is_multiple
from sgl_constrain.schema.objects import write_object
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.reading import Reader
from sgl_constrain.schema.sets import ANY_NUMBERS, ANY_STRINGS, EVERYTHING, Values
from sgl_constrain.schema.strings import escape
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term

_MOST_LISTED = 200  # integers up to which a bounded range is a list,
_MOST_WRITTEN = 20  # and up to which it is written as one where all of them are allowed
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
        self._pending: list[Term] = []
        self.late = False  # is all that may be refused written?
        self._path = ""

    def write(self, root: Term, *, at_once: bool = False) -> int:
        """The texts of all values that `root` allows. at_once: leave nothing to be written later."""
        rule = self.value(root)
        later: dict[Term, Sequence[Parts]] = {}
        while self._pending:
            term = self._pending.pop()
            made_of = None if at_once else glance(self.reader, term)
            if made_of is None:
                values = self.reader.values(term).forget_evaluated()
                made_of = None if at_once else parts(values)
            if made_of is None:
                self._define(term, values)
            else:
                later[term] = made_of
                for needed, others in made_of:
                    for part in (*needed, *others):
                        self.value(part)
        if later:
            sure = certain(later)

            def witness(term: Hashable) -> int:
                return EMPTY if term in sure else self._witness(later[cast(Term, term)], sure)

            of_term = self.expressions.source(self._made_later, witness=witness)
            for term in later:
                self.expressions.define(self._rules[term], of_term(term))
        self.late = True
        return rule

    def _made_later(self, term: Hashable) -> int:
        self.reader.start_clock()
        return self._values(self.reader.values(cast(Term, term)).forget_evaluated())

    def _witness(self, alternatives: Sequence[Parts], sure: Collection[Term]) -> int:
        """Matches something exactly when one of the alternatives has a value; names all terms in doubt."""
        e = self.expressions
        options: list[int] = []
        for needed, others in alternatives:
            parts = [self.value(term) for term in needed if term not in sure]
            parts += [e.optional(self.value(term)) for term in others if term not in sure]
            options.append(e.sequence(*parts))
        return e.choice(options)

    def _define(self, term: Term, values: Values) -> None:
        self._path = self.reader.document.paths[min((abs(number) for number in term), default=0)]
        self.expressions.define(self._rules[term], self._values(values))

    def value(self, term: Term) -> int:
        """The rule for the texts of a term's values, to be written later; FAIL once there are known to be
        none.
        """
        rule = self._rules.get(term)
        if rule is None:
            rule = self._rules[term] = self.expressions.rule()
            self._pending.append(term)
        return FAIL if rule in self.expressions.dead else rule

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
        if listed is not None and (len(listed) <= _MOST_WRITTEN or n.multiples or n.not_multiples):
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

    def integers(self, n: Numbers) -> Sequence[int] | None:
        """The whole numbers of a condition, if there are only these and not too many."""
        if not n.integer or n.low is None or n.high is None or n.high - n.low > _MOST_LISTED:
            return None
        first, last = (
            int(n.low.to_integral_value("ROUND_CEILING")),
            int(n.high.to_integral_value("ROUND_FLOOR")),
        )
        first += n.low_open and first == n.low
        last -= n.high_open and last == n.high
        if not n.multiples and not n.not_multiples:
            return range(first, last + 1)
        return [
            value
            for value in range(first, last + 1)
            if all(is_multiple(value, divisor) for divisor in n.multiples)
            and not any(is_multiple(value, divisor) for divisor in n.not_multiples)
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
            alone = condition._replace(values=None) == ANY_STRINGS[0]
            texts = [v for v in condition.values if alone or self.reader.holds(condition, v)]
            return e.words(dict.fromkeys(map(escape, texts), EMPTY))
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
