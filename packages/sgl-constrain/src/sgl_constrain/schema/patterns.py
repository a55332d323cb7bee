# SPDX-License-Identifier: Apache-2.0
"""The patterns of a schema, each read once: as an expression for JSON strings, and as a test for
known keys.
"""

from __future__ import annotations

from sgl_constrain.automaton import Automaton
from sgl_constrain.errors import InvalidPattern, InvalidSchema, UnsupportedPattern, UnsupportedSchema
from sgl_constrain.regex import Dialect, regex
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.strings import escape
from sgl_constrain.states import DEAD


class Patterns:
    def __init__(self, basics: Basics) -> None:
        self._basics = basics
        self._expressions = basics.expressions
        self._read: dict[str, int] = {}
        self._automata: dict[int, Automaton] = {}

    def check(self, pattern: object, keyword: str, path: str) -> str:
        """The pattern, if it can be read. Raises InvalidSchema, UnsupportedSchema."""
        if not isinstance(pattern, str):
            raise InvalidSchema(f"{keyword} must be a string", path=path)
        try:
            self.search(pattern)
        except UnsupportedPattern as error:
            raise UnsupportedSchema(str(error), keyword=keyword, path=path) from error
        except InvalidPattern as error:
            raise InvalidSchema(f"{keyword}: {error}", path=path) from error
        return pattern

    def search(self, pattern: str) -> int:
        """The contents of JSON strings in which `pattern` matches somewhere."""
        known = self._read.get(pattern)
        if known is None:
            known = self._read[pattern] = regex(
                self._expressions, pattern, dialect=Dialect.ECMA, anywhere=True, letters=self._basics.letters
            )
        return known

    def format(self, name: str) -> int:
        """The contents of JSON strings of a format."""
        return self._basics.format(name)

    def matches(self, pattern: str, text: str) -> bool:
        return self.accepts(self.search(pattern), text)

    def accepts(self, expression: int, text: str) -> bool:
        """Is `text`, as the content of a JSON string, one of the strings of `expression`?"""
        automaton = self._automata.get(expression)
        if automaton is None:
            automaton = self._automata[expression] = Automaton(self._expressions, expression)
        state = automaton.start
        for byte in escape(text):
            state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
        return automaton.accepts(state)
