# SPDX-License-Identifier: Apache-2.0
"""What the notations of grammars have in common: a cursor over their source, errors that say where, and rules
that may be used before they are defined.

Knows no notation: `gbnf` and `lark` say what a rule looks like.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from sgl_constrain.errors import GrammarTooLarge, InvalidGrammar
from sgl_constrain.expression import ENDLESS, Expressions
from sgl_constrain.recursion import left_recursion

MOST_REPEATED = 1_000_000  # a count in a grammar, as text: nobody means more
_MOST_COMPARED = 1000  # rules that a missing name is compared with, to say what was meant
_SIGNS = {"*": (0, ENDLESS), "+": (1, ENDLESS), "?": (0, 1)}


class Reader:
    """The source of one grammar, read from the left. `at` is the position of what is read next.

    Raises GrammarTooLarge when the source is longer than `limits.source_chars`.
    """

    def __init__(self, expressions: Expressions, source: str) -> None:
        if len(source) > expressions.limits.source_chars:
            raise GrammarTooLarge(f"the grammar has {len(source)} characters", limit="source_chars")
        self.expressions = expressions
        self.source = source
        self.at = 0
        self.depth = 0
        self._rules: dict[str, int] = {}
        self._used_at: dict[str, int] = {}
        self._defined_at: dict[str, int] = {}

    # -- the cursor ------------------------------------------------------------------------------------------

    def ended(self) -> bool:
        return self.at >= len(self.source)

    def ahead(self, text: str | tuple[str, ...]) -> bool:
        """Does `text` come next? Nothing is read."""
        return self.source.startswith(text, self.at)

    def take(self, text: str) -> bool:
        """Read `text`, if it comes next."""
        found = self.source.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Read what `pattern` matches, if it does."""
        found = pattern.match(self.source, self.at)
        if found:
            self.at = found.end()
        return found

    def take_sign(self) -> tuple[int, int] | None:
        """Read `*`, `+` or `?`: the least and the most times that it stands for."""
        counts = _SIGNS.get(self.source[self.at : self.at + 1])
        self.at += counts is not None
        return counts

    def check_counts(self, least: int, most: int, position: int) -> tuple[int, int]:
        """The counts of a repetition, refused when they make no sense."""
        if most != ENDLESS and most < least:
            self.fail(f"a repetition of {least} to {most} times counts backwards", position)
        if max(least, most) > MOST_REPEATED:
            self.fail(f"a repetition of more than {MOST_REPEATED} times: leave the upper count out", position)
        return least, most

    @contextmanager
    def nested(self) -> Iterator[None]:
        """Inside a group. Raises GrammarTooLarge when they are nested deeper than `limits.nesting`."""
        self.depth += 1
        if self.depth > self.expressions.limits.nesting:
            most = self.expressions.limits.nesting
            raise GrammarTooLarge(f"groups nested deeper than {most}: give parts names", limit="nesting")
        yield
        self.depth -= 1

    def next_shown(self) -> str:
        """What comes next, for an error message."""
        return repr(self.source[self.at]) if not self.ended() else "the end of the grammar"

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raise InvalidGrammar at `position`, or where the cursor is."""
        before = self.source[: self.at if position is None else position]
        line = before.count("\n")
        column = len(before) - (before.rfind("\n") + 1)
        raise InvalidGrammar(message, line=line + 1, column=column + 1)

    # -- rules -----------------------------------------------------------------------------------------------

    def use(self, name: str, position: int) -> int:
        """The rule `name`, referred to at `position`."""
        self._used_at.setdefault(name, position)
        return self._reference(name)

    def define(self, name: str, body: int, position: int) -> None:
        """Give the rule its body, once."""
        if name in self._defined_at:
            self.fail(f"{name!r} is defined twice: join the two with `|`", position)
        self._defined_at[name] = position
        self.expressions.define(self._reference(name), body)

    def _reference(self, name: str) -> int:
        if name not in self._rules:
            self._rules[name] = self.expressions.rule()
        return self._rules[name]

    def rule(self, root: str, also: tuple[int, ...] = ()) -> int:
        """The rule named `root`, after everything was read and `also`, rules without a name, were defined.

        Raises InvalidGrammar for rules that are missing, and for left recursion.
        """
        for name, position in self._used_at.items():
            if name not in self._defined_at:
                known = list(self._defined_at)[:_MOST_COMPARED]
                near = difflib.get_close_matches(name, known, n=1)
                meant = f": did you mean {near[0]!r}?" if near else ""
                self.fail(f"{name!r} is not defined{meant}", position)
        if root not in self._defined_at:
            self.fail(f"there is no rule named {root!r}, where every text begins", 0)
        names = {rule: name for name, rule in self._rules.items()}
        cycle = [
            names[rule]
            for rule in left_recursion(self.expressions, [*self._rules.values(), *also])
            if rule in names
        ]
        if cycle:
            self.fail(
                f"left recursion: {' -> '.join(cycle)}; write what repeats as `first (operator next)*`",
                self._defined_at[cycle[0]],
            )
        return self._rules[root]
