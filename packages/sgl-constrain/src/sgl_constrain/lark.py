# SPDX-License-Identifier: Apache-2.0
"""Grammars in the notation of Lark, the part of it that says which texts there are.

Read without a lexer: a text is in the language if it can be derived, each terminal standing for the texts of
its pattern, with ignored terminals before the first and after every one. That is what Lark's Earley parser
accepts with its complete dynamic lexer. Priorities, aliases and `?`, `!` before rules shape trees, not texts,
and change nothing. Templates, `%declare`, `%extend`, `%override`, other imports and tokens by name are
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final, NoReturn

from sgl_constrain.errors import GrammarTooLarge, InvalidGrammar, InvalidPattern
from sgl_constrain.expression import EMPTY, ENDLESS, Expressions
from sgl_constrain.recursion import left_recursion
from sgl_constrain.regex import regex
from sgl_constrain.schema.compiling import json_schema

_BLANKS = re.compile(r"(?:[ \t]|//[^\n]*|#[^\n]*)*")
_BLANKS_AND_LINES = re.compile(r"(?:[ \t\r\n]|//[^\n]*|#[^\n]*)*")
_MORE = re.compile(r"(?:[ \t\r\n]|//[^\n]*|#[^\n]*)*\|")
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9_]*")
_HEAD = re.compile(r"[?!]{0,2}(_?[A-Za-z][A-Za-z0-9_]*)(\{[^}\n]*\})?(?:\.-?\d+)?[ \t]*:(?!=)")
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"(i?)')
_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)+)/([imslux]*)")
_TIMES = re.compile(r"[ \t]*~[ \t]*(\d+)(?:[ \t]*\.\.[ \t]*(\d+))?|\{(\d+)(?:(,)(\d*))?\}", re.ASCII)
_ALIAS = re.compile(r"[ \t]*->[ \t]*_?[A-Za-z][A-Za-z0-9_]*")
_IMPORT = re.compile(
    r"common[ \t]*(?:\.[ \t]*([A-Z_]+)(?:[ \t]*->[ \t]*(_?[A-Z][A-Z0-9_]*))?|\(([A-Z_, \t]+)\))[ \t]*$",
    re.MULTILINE,
)
_MOST_REPEATED = 1_000_000

# The terminals of Lark's grammar `common`, by the texts they have.
_COMMON: Final = {
    "DIGIT": "[0-9]",
    "HEXDIGIT": "[0-9a-fA-F]",
    "INT": "[0-9]+",
    "SIGNED_INT": "[+-]?[0-9]+",
    "DECIMAL": r"[0-9]+\.[0-9]*|\.[0-9]+",
    "FLOAT": r"[0-9]+[eE][+-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "NUMBER": r"[0-9]+(?:[eE][+-]?[0-9]+)?|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?",
    "LCASE_LETTER": "[a-z]",
    "UCASE_LETTER": "[A-Z]",
    "LETTER": "[A-Za-z]",
    "WORD": "[A-Za-z]+",
    "CNAME": "[_A-Za-z][_A-Za-z0-9]*",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\[^\n])*"',
    "WS_INLINE": r"[ \t]+",
    "WS": r"[ \t\f\r\n]+",
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
}
_COMMON_SIGNED: Final = {f"SIGNED_{name}": f"[+-]?(?:{_COMMON[name]})" for name in ("FLOAT", "NUMBER")}


def lark(expressions: Expressions, source: str) -> int:
    """The texts of the rule `start`. Raises InvalidGrammar, GrammarTooLarge, InvalidSchema."""
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
        self._ignored: list[int] = []
        self._skip = expressions.rule()  # any number of ignored terminals

    def parse(self) -> int:
        self._pass(_BLANKS_AND_LINES)
        while self._at < len(self._source):
            if self._take("%"):
                self._directive()
            else:
                self._definition()
            self._pass(_BLANKS)
            if self._at < len(self._source) and self._source[self._at] not in "\r\n":
                self._fail(f"unexpected {self._source[self._at]!r}")
            self._pass(_BLANKS_AND_LINES)
        for name, position in self._used_at.items():
            if name not in self._defined:
                self._fail(f"{name!r} is not defined", position)
        if "start" not in self._defined:
            self._fail("there is no rule named 'start'", 0)
        self._e.define(self._skip, self._e.repeat(self._e.choice(self._ignored), 0))
        names = {rule: name for name, rule in self._rules.items()}
        cycle = left_recursion(self._e, [*self._rules.values(), self._skip])
        if cycle:
            self._fail(f"left recursion: {' -> '.join(names[rule] for rule in cycle)}", 0)
        return self._e.sequence(self._skip, self._rules["start"])

    # -- reading ---------------------------------------------------------------------------------------------

    def _fail(self, message: str, position: int | None = None) -> NoReturn:
        before = self._source[: self._at if position is None else position]
        raise InvalidGrammar(message, line=before.count("\n") + 1)

    def _pass(self, blanks: re.Pattern[str]) -> None:
        found = blanks.match(self._source, self._at)
        assert found is not None
        self._at = found.end()

    def _take(self, text: str) -> bool:
        found = self._source.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._source, self._at)
        if found:
            self._at = found.end()
        return found

    # -- definitions -----------------------------------------------------------------------------------------

    def _define(self, name: str, body: int, position: int) -> None:
        if name in self._defined:
            self._fail(f"{name!r} is defined twice", position)
        self._defined.add(name)
        self._e.define(self._reference(name), body)

    def _reference(self, name: str) -> int:
        if name not in self._rules:
            self._rules[name] = self._e.rule()
        return self._rules[name]

    def _definition(self) -> None:
        start = self._at
        head = self._match(_HEAD)
        if head is None:
            self._fail("expected a rule, a terminal or a directive")
        if head[2]:
            self._fail("templates are not supported", start)
        self._pass(_BLANKS_AND_LINES if self._source.startswith("\n", self._at) else _BLANKS)
        body = self._alternatives(in_terminal=_is_terminal(head[1]))
        self._define(head[1], body, start)

    def _directive(self) -> None:
        start = self._at
        name = self._match(_NAME)
        self._pass(_BLANKS)
        if name is not None and name.group() == "ignore":
            self._ignored.append(self._alternatives(in_terminal=True))
        elif name is not None and name.group() == "import":
            found = self._match(_IMPORT)
            if found is None:
                self._fail("only terminals of 'common' can be imported", start)
            names = [name.strip() for name in found[3].split(",")] if found[3] else [found[1]]
            for imported in names:
                pattern = (_COMMON | _COMMON_SIGNED).get(imported)
                if pattern is None:
                    self._fail(f"there is no common.{imported}", start)
                self._define(found[2] or imported, regex(self._e, pattern), start)
        else:
            self._fail(f"%{name.group() if name else ''} is not supported", start)

    # -- expressions -----------------------------------------------------------------------------------------

    def _alternatives(self, *, in_terminal: bool) -> int:
        options = [self._series(in_terminal=in_terminal)]
        while self._match(_MORE):
            options.append(self._series(in_terminal=in_terminal))
        return self._e.choice(options)

    def _series(self, *, in_terminal: bool) -> int:
        parts: list[int] = []
        while True:
            self._pass(_BLANKS_AND_LINES if self._depth else _BLANKS)
            part = self._atom(in_terminal=in_terminal)
            if part is None:
                break
            parts.append(self._repeated(part))
        if not in_terminal:
            self._match(_ALIAS)
        return self._e.sequence(*parts)

    def _repeated(self, part: int) -> int:
        for sign, counts in (("*", (0, ENDLESS)), ("+", (1, ENDLESS)), ("?", (0, 1))):
            if self._take(sign):
                return self._e.repeat(part, *counts)
        times = self._match(_TIMES)
        if times is None:
            return part
        if times[1]:
            least, most = int(times[1]), int(times[2] or times[1])
        else:
            least = int(times[3])
            most = least if not times[4] else int(times[5]) if times[5] else ENDLESS
        if (most != ENDLESS and most < least) or least > _MOST_REPEATED:
            self._fail(f"{times.group().strip()} cannot be counted")
        return self._e.repeat(part, least, most)

    def _atom(self, *, in_terminal: bool) -> int | None:
        finish: Callable[[int], int] = (lambda e: e) if in_terminal else self._and_ignored
        start = self._at
        for opening, closing in (("(", ")"), ("[", "]")):
            if self._take(opening):
                self._depth += 1
                if self._depth > self._e.limits.nesting:
                    raise GrammarTooLarge(
                        f"groups nested deeper than {self._e.limits.nesting}", limit="nesting"
                    )
                inner = self._alternatives(in_terminal=in_terminal)
                self._pass(_BLANKS_AND_LINES)
                if not self._take(closing):
                    self._fail(f"expected {closing!r}")
                self._depth -= 1
                return inner if closing == ")" else self._e.optional(inner)
        if self._take("%json"):
            return finish(self._json(start))
        string = self._match(_STRING)
        if string:
            return finish(self._string(string, start))
        pattern = self._match(_REGEX)
        if pattern:
            flags = sum(getattr(re, flag.upper()) for flag in set(pattern[2]) - {"l"})
            if "l" in pattern[2]:
                self._fail("the flag l is not supported", start)
            return finish(self._regex(pattern[1].replace("\\/", "/"), flags, start))
        if self._source.startswith("<", start):
            self._fail("special tokens are not text")
        name = self._match(_NAME)
        if name is None:
            return None
        if self._source.startswith("{", self._at) and not _TIMES.match(self._source, self._at):
            self._fail("templates are not supported", start)
        if in_terminal and not _is_terminal(name.group()):
            self._fail(f"a terminal cannot contain the rule {name.group()!r}", start)
        self._used_at.setdefault(name.group(), start)
        reference = self._reference(name.group())
        return finish(reference) if _is_terminal(name.group()) else reference

    def _and_ignored(self, terminal: int) -> int:
        return self._e.sequence(terminal, self._skip)

    def _json(self, start: int) -> int:
        """`%json {...}`: the JSON texts of a schema, as one terminal."""
        self._pass(_BLANKS_AND_LINES)
        try:
            schema, end = json.JSONDecoder(parse_float=Decimal).raw_decode(self._source, self._at)
        except ValueError as error:
            self._fail(f"%json: {error}", start)
        self._at = end
        return json_schema(self._e, schema, max_whitespace=20, any_order=False, lenient=False)[0]

    def _string(self, string: re.Match[str], start: int) -> int:
        text = _unescaped(string[1])
        if self._source.startswith("..", self._at):
            self._at += 2
            last = self._match(_STRING)
            end = _unescaped(last[1]) if last else ""
            if len(text) != 1 or len(end) != 1 or end < text or string[2]:
                self._fail("a range goes from one character to another", start)
            return self._e.character(((ord(text), ord(end)),))
        if string[2]:
            return self._regex(re.escape(text), re.IGNORECASE, start)
        return self._e.literal(text) if text else EMPTY

    def _regex(self, pattern: str, flags: int, start: int) -> int:
        try:
            return regex(self._e, pattern, flags=flags, inside=True)
        except InvalidPattern as error:
            self._fail(str(error), start)


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[0].isupper()


def _unescaped(text: str) -> str:
    """The string that a literal writes, with the escapes of Python's strings."""
    named = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v"}

    def character(escape: re.Match[str]) -> str:
        code = escape[1]
        return chr(int(code[1:], 16)) if len(code) > 1 else named.get(code, code)

    return re.sub(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[01][0-9a-fA-F]{7}|.)", character, text)
