# SPDX-License-Identifier: Apache-2.0
"""GBNF, the grammar notation of llama.cpp: `root ::= "yes" | "no" ws`. No rule may be recursive on its left.

Supported: literals, character sets, `.`, groups, `|`, `* + ?`, `{m}` `{m,}` `{m,n}`, comments and all escapes
of the original. Tokens by name or number (`<[12]>`) are refused: they are not text.
"""

from __future__ import annotations

import re

from sgl_constrain.codepoints import MAX, Ranges, complement, union
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Expressions
from sgl_constrain.reading import Reader

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-", "^": "^"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_COUNTS = re.compile(r"\{\s*(\d{1,15})\s*(?:(,)\s*(\d{1,15})?\s*)?\}", re.ASCII)
_BLANKS = re.compile(r"(?:[ \t]|#[^\n\r]*)*")
_BLANKS_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\n\r]*)*")
_BEGINNING = re.compile(r"(?:\s|(?:#|//)[^\n\r]*+)*+[A-Za-z0-9_-]++[ \t]*+::=")  # no way back: linear time


def gbnf(expressions: Expressions, source: str) -> int:
    """The texts of the rule `root`. Raises InvalidGrammar, GrammarTooLarge."""
    return _Parser(expressions, source).parse()


def is_gbnf(source: str) -> bool:
    """Is this in GBNF rather than in Lark's notation? By how its first rule is defined."""
    return _BEGINNING.match(source) is not None


class _Parser:
    def __init__(self, expressions: Expressions, source: str) -> None:
        self._e = expressions
        self._read = Reader(expressions, source)

    def parse(self) -> int:
        read = self._read
        read.match(_BLANKS_AND_LINES)
        while not read.ended():
            self._rule()
            if not (read.ended() or read.ahead(("\r", "\n"))):
                read.fail(f"unexpected {read.next_shown()}: a rule ends with its line, except inside ( )")
            read.match(_BLANKS_AND_LINES)
        return read.rule("root")

    def _rule(self) -> None:
        read = self._read
        start = read.at
        name = read.match(_NAME)
        if name is None:
            read.fail("expected the name of a rule: `name ::= ...`", start)
        read.match(_BLANKS)
        if not read.take("::="):
            read.fail(f"expected '::=' after {name.group()!r}")
        read.match(_BLANKS_AND_LINES)
        read.define(name.group(), self._alternatives(nested=False), start)

    def _alternatives(self, *, nested: bool) -> int:
        options = [self._sequence(nested=nested)]
        while self._read.take("|"):
            self._read.match(_BLANKS_AND_LINES)
            options.append(self._sequence(nested=nested))
        return self._e.choice(options)

    def _sequence(self, *, nested: bool) -> int:
        blanks = _BLANKS_AND_LINES if nested else _BLANKS
        parts: list[int] = []
        while (item := self._item()) is not None:
            self._read.match(blanks)
            while (counts := self._counts()) is not None:
                item = self._e.repeat(item, *counts)
                self._read.match(blanks)
            parts.append(item)
        return self._e.sequence(*parts)

    def _item(self) -> int | None:
        read = self._read
        start = read.at
        if read.take('"'):
            return self._literal(start)
        if read.take("["):
            return self._set(start)
        if read.take("."):
            return self._e.any_character
        if read.take("("):
            with read.nested():
                read.match(_BLANKS_AND_LINES)
                inside = self._alternatives(nested=True)
                if not read.take(")"):
                    read.fail(f"expected ')', not {read.next_shown()}")
            return inside
        if read.ahead(("<", "!<")):
            read.fail("tokens are not text: write what they spell", start)
        name = read.match(_NAME)
        return None if name is None else read.use(name.group(), start)

    def _counts(self) -> tuple[int, int] | None:
        read = self._read
        start = read.at
        sign = read.take_sign()
        if sign is not None or not read.ahead("{"):
            return sign
        found = read.match(_COUNTS)
        if found is None:
            read.fail("expected {m}, {m,} or {m,n}", start)
        least = int(found[1])
        most = least if not found[2] else int(found[3]) if found[3] else ENDLESS
        return read.check_counts(least, most, start)

    def _literal(self, start: int) -> int:
        points: list[int] = []
        while not self._read.take('"'):
            points.append(self._character(start, '"'))
        try:
            return self._e.literal("".join(map(chr, points))) if points else EMPTY
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
            return FAIL

    def _set(self, start: int) -> int:
        read = self._read
        negated = read.take("^")
        ranges: list[tuple[int, int]] = []
        while not read.take("]"):
            position = read.at
            low = high = self._character(start, "]")
            if read.ahead("-") and not read.ahead("-]"):
                read.take("-")
                high = self._character(start, "]")
                if high < low:
                    read.fail("a range counts backwards", position)
            ranges.append((low, high))
        members: Ranges = union(ranges)
        return self._e.character(complement(members) if negated else members)

    def _character(self, start: int, closing: str) -> int:
        """One character of the literal or set that began at `start`, with its escapes."""
        read = self._read
        if read.ended():
            read.fail(f"this is never closed: expected {closing}", start)
        position = read.at
        character = read.source[position]
        read.at += 1
        if character != "\\":
            return ord(character)
        letter = read.source[read.at : read.at + 1]
        read.at += 1
        if letter in _HEX_DIGITS:
            count = _HEX_DIGITS[letter]
            digits = read.source[read.at : read.at + count]
            read.at += count
            if not re.fullmatch(f"[0-9A-Fa-f]{{{count}}}", digits) or int(digits, 16) > MAX:
                read.fail(f"\\{letter} is followed by {count} hexadecimal digits of a character", position)
            return int(digits, 16)
        if letter not in _ESCAPES:
            read.fail(f"unknown escape \\{letter}: write \\\\ for a backslash", position)
        return ord(_ESCAPES[letter])
