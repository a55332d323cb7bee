# SPDX-License-Identifier: Apache-2.0
"""What every schema's grammar is written with: letters, numbers, strings, the formats that are enforced, and
any value at all.

All of it is the same for every schema, so it is made and pruned once for a table of heads, and copied into
the table of expressions of each grammar. Knows no schema.
"""

from __future__ import annotations

from sgl_constrain.automaton import judge
from sgl_constrain.expression import Both, Expressions, Without, shallow
from sgl_constrain.limits import Limits
from sgl_constrain.prune import prune
from sgl_constrain.regex import Dialect, regex
from sgl_constrain.schema.layout import Layout
from sgl_constrain.schema.numbers import NumberTexts
from sgl_constrain.schema.strings import FORMATS, JsonLetters, any_content


class Basics:
    """Over one table of expressions."""

    def __init__(self, expressions: Expressions, max_whitespace: int) -> None:
        self.expressions = expressions
        self.letters = JsonLetters(expressions)
        self.numbers = NumberTexts(expressions)
        self.quote = expressions.literal('"')
        self.any_string = expressions.sequence(self.quote, any_content(expressions), self.quote)
        self.layout = Layout(expressions, max_whitespace)
        self.any_value: int | None = None  # a rule, once `settle` was told
        self._formats: dict[str, int] = {}

    def settle(self, any_value: int) -> None:
        """Make what is missing, and see that each part of it all matches something. From then on it is to be
        copied, not added to.
        """
        expressions = self.expressions
        for name in FORMATS:
            self.format(name)
        added = expressions.nodes[expressions.settled :]
        products = [node for node in added if isinstance(node, Both | Without)]
        with judge(expressions) as is_empty:
            assert not any(map(is_empty, products)), "a part of a format matches nothing"
            kept = prune(expressions, any_value, is_empty)
        assert kept == any_value and not expressions.dead, "a part of any value matches nothing"
        self.any_value = any_value
        expressions.settled = len(expressions.nodes)

    def copy(self, limits: Limits) -> Basics:
        """The same over a table of its own, with the same numbers."""
        other = shallow(self)
        other.expressions = self.expressions.copy(limits)
        other.letters = self.letters.over(other.expressions)
        other.numbers = self.numbers.over(other.expressions)  # a layout is numbers of expressions only
        other._formats = self._formats.copy()
        return other

    def laid_out(self, max_whitespace: int) -> Basics:
        """A copy with other whitespace, and so without any value, still to be settled."""
        other = self.copy(self.expressions.limits)
        other.layout, other.any_value = Layout(other.expressions, max_whitespace), None
        return other

    def format(self, name: str) -> int:
        """The contents of JSON strings of a format."""
        known = self._formats.get(name)
        if known is None:
            known = self._formats[name] = regex(
                self.expressions, FORMATS[name], dialect=Dialect.ECMA, letters=self.letters
            )
        return known
