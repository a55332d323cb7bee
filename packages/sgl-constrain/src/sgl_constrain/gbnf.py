# SPDX-License-Identifier: Apache-2.0
"""GBNF, the grammar notation of llama.cpp: `root ::= "yes" | "no" ws`. No rule may be recursive on its left.

Supported: literals, character sets, `.`, groups, `|`, `* + ?`, `{m}` `{m,}` `{m,n}`, comments and all escapes
of the original. Tokens by name or number (`<[12]>`) are refused: they are not text.
"""

from __future__ import annotations

import re
from typing import NoReturn

from sgl_constrain.codepoints import MAX, Ranges, complement, union
from sgl_constrain.errors import GrammarTooLarge, InvalidGrammar
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Expressions
from sgl_constrain.recursion import left_recursion

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_COUNTS = re.compile(r"\{\s*(\d+)\s*(?:(,)\s*(\d+)?\s*)?\}", re.ASCII)
_BLANKS = re.compile(r"(?:[ \t]|#[^\n\r]*)*")
_BLANKS_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n\r]*)*")


def gbnf(expressions: Expressions, source: str) -> int:
    """The texts of the rule `root`. Raises InvalidGrammar, GrammarTooLarge."""
    if len(source) > expressions.limits.source_chars:
        raise GrammarTooLarge(f"the grammar has {len(source)} characters", limit="source_chars")
    return _Parser(expressions, source).parse()


class _Parser:
    def __init__(self, expressions: Expressions, source: str) -> None:
        self._e = expressions
        self._source = source
        self._at = 0
        self._depth = 0
        self._rules: dict[str, int] = {}
        self._used_at: dict[str, int] = {}
        self._defined: set[str] = set()

    def parse(self) -> int:
        self._skip(_BLANKS_AND_LINES)
        while self._at < len(self._source):
            self._rule()
            self._skip(_BLANKS_AND_LINES)
        for name, position in self._used_at.items():
            if name not in self._defined:
                self._fail(f"the rule {name!r} is not defined", position)
        if "root" not in self._defined:
            self._fail("there is no rule named 'root'", 0)
        names = {rule: name for name, rule in self._rules.items()}
        cycle = left_recursion(self._e, self._rules.values())
        if cycle:
            self._fail(f"left recursion: {' -> '.join(names[rule] for rule in cycle)}", 0)
        return self._rules["root"]

    def _fail(self, message: str, position: int) -> NoReturn:
        line = self._source.count("\n", 0, position) + 1
        raise InvalidGrammar(message, line=line)

    def _skip(self, blanks: re.Pattern[str]) -> None:
        found = blanks.match(self._source, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, text: str) -> bool:
        found = self._source.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _reference(self, name: str) -> int:
        if name not in self._rules:
            self._rules[name] = self._e.rule()
        return self._rules[name]

    def _rule(self) -> None:
        start = self._at
        name = _NAME.match(self._source, start)
        if name is None:
            self._fail("expected the name of a rule", start)
        self._at = name.end()
        self._skip(_BLANKS)
        if not self._take("::="):
            self._fail(f"expected '::=' after {name.group()!r}", self._at)
        if name.group() in self._defined:
            self._fail(f"the rule {name.group()!r} is defined twice", start)
        self._defined.add(name.group())
        self._skip(_BLANKS_AND_LINES)
        body = self._alternatives(nested=False)
        self._e.define(self._reference(name.group()), body)
        if self._at < len(self._source) and self._source[self._at] not in "\r\n":
            self._fail(f"unexpected {self._source[self._at]!r}", self._at)

    def _alternatives(self, *, nested: bool) -> int:
        options = [self._sequence(nested=nested)]
        while self._take("|"):
            self._skip(_BLANKS_AND_LINES)
            options.append(self._sequence(nested=nested))
        return self._e.choice(options)

    def _sequence(self, *, nested: bool) -> int:
        blanks = _BLANKS_AND_LINES if nested else _BLANKS
        parts: list[int] = []
        while (item := self._item()) is not None:
            self._skip(blanks)
            while (counts := self._counts()) is not None:
                item = self._e.repeat(item, *counts)
                self._skip(blanks)
            parts.append(item)
        return self._e.sequence(*parts)

    def _item(self) -> int | None:
        start = self._at
        if self._take('"'):
            return self._literal(start)
        if self._take("["):
            return self._set(start)
        if self._take("."):
            return self._e.any_character
        if self._take("("):
            self._depth += 1
            if self._depth > self._e.limits.nesting:
                raise GrammarTooLarge(f"groups nested deeper than {self._e.limits.nesting}", limit="nesting")
            self._skip(_BLANKS_AND_LINES)
            inside = self._alternatives(nested=True)
            if not self._take(")"):
                self._fail("expected ')'", self._at)
            self._depth -= 1
            return inside
        if self._source.startswith(("<", "!<"), self._at):
            self._fail("tokens are not text: write what they spell", start)
        name = _NAME.match(self._source, start)
        if name is None:
            return None
        self._at = name.end()
        self._used_at.setdefault(name.group(), start)
        return self._reference(name.group())

    def _counts(self) -> tuple[int, int] | None:
        for sign, counts in (("*", (0, ENDLESS)), ("+", (1, ENDLESS)), ("?", (0, 1))):
            if self._take(sign):
                return counts
        found = _COUNTS.match(self._source, self._at)
        if found is None:
            if self._source.startswith("{", self._at):
                self._fail("expected {m}, {m,} or {m,n}", self._at)
            return None
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else ENDLESS
        if most != ENDLESS and most < least:
            self._fail(f"{found.group()} counts backwards", self._at)
        self._at = found.end()
        return least, most

    def _literal(self, start: int) -> int:
        points: list[int] = []
        while not self._take('"'):
            points.append(self._character(start))
        try:
            return self._e.literal("".join(map(chr, points))) if points else EMPTY
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
            return FAIL

    def _set(self, start: int) -> int:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            low = high = self._character(start)
            if self._source.startswith("-", self._at) and not self._source.startswith("-]", self._at):
                self._at += 1
                high = self._character(start)
                if high < low:
                    self._fail("a range counts backwards", start)
            ranges.append((low, high))
        members: Ranges = union(ranges)
        return self._e.character(complement(members) if negated else members)

    def _character(self, start: int) -> int:
        if self._at >= len(self._source):
            self._fail("unterminated literal or set", start)
        character = self._source[self._at]
        self._at += 1
        if character != "\\":
            return ord(character)
        letter = self._source[self._at : self._at + 1]
        self._at += 1
        if letter in _HEX_DIGITS:
            digits = self._source[self._at : self._at + _HEX_DIGITS[letter]]
            self._at += len(digits)
            if not re.fullmatch(f"[0-9A-Fa-f]{{{_HEX_DIGITS[letter]}}}", digits) or int(digits, 16) > MAX:
                self._fail(f"bad escape \\{letter}{digits}", start)
            return int(digits, 16)
        if letter not in _ESCAPES:
            self._fail(f"unknown escape \\{letter}", start)
        return ord(_ESCAPES[letter])
