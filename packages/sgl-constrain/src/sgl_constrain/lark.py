# SPDX-License-Identifier: Apache-2.0
"""Grammars in the notation of Lark, the part of it that says which texts there are.

Read without a lexer: a text is in the language if it can be derived, each terminal standing for the texts of
its pattern, with ignored terminals before the first and after every one. That is what Lark's Earley parser
accepts with its complete dynamic lexer. Priorities, aliases and `?`, `!` before rules shape trees, not texts,
and change nothing. Of llguidance's additions `%json` is read, and an empty `%llguidance {}`. Refused by name:
templates, `%declare`, `%extend`, `%override`, other imports, tokens by name, attributes of rules, and `&` and
`~` between terminals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final, NoReturn

from sgl_constrain.errors import InvalidPattern, InvalidSchema
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Expressions
from sgl_constrain.reading import Reader
from sgl_constrain.regex import regex
from sgl_constrain.schema.compiling import json_schema

_BLANKS = re.compile(r"(?:[ \t]|//[^\n]*|#[^\n]*)*")
_BLANKS_AND_LINES = re.compile(r"(?:[ \t\r\n]|//[^\n]*|#[^\n]*)*")
_MORE = re.compile(r"(?:[ \t\r\n]|//[^\n]*+|#[^\n]*+)*+\|")  # no way back: a long comment takes linear time
_NAME = re.compile(r"_?[A-Za-z][A-Za-z0-9_]*")
_HEAD = re.compile(r"[?!]{0,2}(_?[A-Za-z][A-Za-z0-9_]*)([{\[][^}\]\n]*[}\]])?(?:\.-?\d+)?[ \t]*:(?!=)")
_STRING = re.compile(r'"((?:[^"\\\n]|\\.)*)"(i?)')
_REGEX = re.compile(r"/((?:[^/\\\n]|\\.)+)/([imslux]*)")
_TIMES = re.compile(
    r"[ \t]*~[ \t]*(\d{1,15})(?:[ \t]*\.\.[ \t]*(\d{1,15}))?|\{(\d{1,15})(?:(,)(\d{0,15}))?\}", re.ASCII
)
_ALIAS = re.compile(r"[ \t]*->[ \t]*_?[A-Za-z][A-Za-z0-9_]*")
_IMPORT = re.compile(
    r"common[ \t]*(?:\.[ \t]*([A-Z_]+)(?:[ \t]*->[ \t]*(_?[A-Z][A-Z0-9_]*))?|\(([A-Z_, \t]+)\))[ \t]*$",
    re.MULTILINE,
)
_ESCAPE = re.compile(
    r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|[nrtf\\\"])|(\\.)"
)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "\\": "\\", '"': '"'}
_SPACES = 20  # blanks around the punctuation of `%json`, unless its schema says otherwise

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
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"//[^\n]*",
    "C_COMMENT": r"/\*(?:[^*]|\*+[^*/])*\*+/",
    "SQL_COMMENT": r"--[^\n]*",
}
_COMMON_SIGNED: Final = {f"SIGNED_{name}": f"[+-]?(?:{_COMMON[name]})" for name in ("FLOAT", "NUMBER")}


def lark(expressions: Expressions, source: str) -> int:
    """The texts of the rule `start`. Raises InvalidGrammar, GrammarTooLarge, InvalidSchema."""
    return _Parser(expressions, source).parse()


class _Parser:
    def __init__(self, expressions: Expressions, source: str) -> None:
        self._e = expressions
        self._read = Reader(expressions, source)
        self._ignored: list[int] = []
        self._skip = expressions.rule()  # any number of ignored terminals

    def parse(self) -> int:
        read = self._read
        read.match(_BLANKS_AND_LINES)
        while not read.ended():
            if read.take("%"):
                self._directive()
            else:
                self._definition()
            read.match(_BLANKS)
            if not (read.ended() or read.ahead(("\r", "\n"))):
                self._fail_unexpected()
            read.match(_BLANKS_AND_LINES)
        self._e.define(self._skip, self._e.repeat(self._e.choice(self._ignored), 0))
        return self._e.sequence(self._skip, read.rule("start", also=(self._skip,)))

    def _fail_unexpected(self) -> NoReturn:
        read = self._read
        if read.ahead(("&", "~")):
            read.fail(f"{read.next_shown()} between terminals is not supported: write one regular expression")
        if read.ahead(('"', "/")):
            read.fail(f"{read.next_shown()} opens what is not closed on its line")
        read.fail(f"unexpected {read.next_shown()}")

    # -- definitions -----------------------------------------------------------------------------------------

    def _definition(self) -> None:
        read = self._read
        start = read.at
        head = read.match(_HEAD)
        if head is None:
            read.fail("expected a rule `name: ...`, a terminal `NAME: ...` or a directive")
        if head[2]:
            what = "templates" if head[2].startswith("{") else "attributes of rules"
            read.fail(f"{what} are not supported", start)
        read.match(_BLANKS_AND_LINES if read.ahead("\n") else _BLANKS)
        read.define(head[1], self._alternatives(in_terminal=_is_terminal(head[1])), start)

    def _directive(self) -> None:
        read = self._read
        start = read.at - 1
        found = read.match(_NAME)
        name = found.group() if found else ""
        read.match(_BLANKS)
        if name == "ignore":
            self._ignored.append(self._alternatives(in_terminal=True))
        elif name == "import":
            self._import(start)
        elif name == "llguidance":
            options = self._json_value(start)
            if options != {}:
                read.fail("options of %llguidance are not supported: leave them out", start)
        else:
            read.fail(f"%{name} is not supported", start)

    def _import(self, start: int) -> None:
        found = self._read.match(_IMPORT)
        if found is None:
            self._read.fail("only terminals of 'common' can be imported: define others here", start)
        names = [name.strip() for name in found[3].split(",")] if found[3] else [found[1]]
        for imported in names:
            pattern = (_COMMON | _COMMON_SIGNED).get(imported)
            if pattern is None:
                known = ", ".join(sorted(_COMMON | _COMMON_SIGNED))
                self._read.fail(f"there is no common.{imported}, but {known}", start)
            self._read.define(found[2] or imported, regex(self._e, pattern), start)

    # -- expressions -----------------------------------------------------------------------------------------

    def _alternatives(self, *, in_terminal: bool) -> int:
        options = [self._series(in_terminal=in_terminal)]
        while self._read.match(_MORE):
            options.append(self._series(in_terminal=in_terminal))
        return self._e.choice(options)

    def _series(self, *, in_terminal: bool) -> int:
        parts: list[int] = []
        while True:
            self._read.match(_BLANKS_AND_LINES if self._read.depth else _BLANKS)
            part = self._atom(in_terminal=in_terminal)
            if part is None:
                break
            parts.append(self._repeated(part))
        if not in_terminal:
            self._read.match(_ALIAS)
        return self._e.sequence(*parts)

    def _repeated(self, part: int) -> int:
        read = self._read
        start = read.at
        sign = read.take_sign()
        if sign is not None:
            return self._e.repeat(part, *sign)
        times = read.match(_TIMES)
        if times is None:
            return part
        if times[1]:
            least, most = int(times[1]), int(times[2] or times[1])
        else:
            least = int(times[3])
            most = least if not times[4] else int(times[5]) if times[5] else ENDLESS
        return self._e.repeat(part, *read.check_counts(least, most, start))

    def _atom(self, *, in_terminal: bool) -> int | None:
        finish: Callable[[int], int] = (lambda e: e) if in_terminal else self._and_ignored
        read = self._read
        start = read.at
        for opening, closing in (("(", ")"), ("[", "]")):
            if read.take(opening):
                inner = self._group(closing, in_terminal=in_terminal)
                return inner if closing == ")" else self._e.optional(inner)
        if read.take("%json"):
            return finish(self._json(start))
        string = read.match(_STRING)
        if string:
            return finish(self._string(string, start))
        pattern = read.match(_REGEX)
        if pattern:
            flags = sum(getattr(re, flag.upper()) for flag in set(pattern[2]) - {"l"})
            if "l" in pattern[2]:
                read.fail("the flag l is not supported", start)
            return finish(self._regex(pattern[1].replace("\\/", "/"), flags, start))
        if read.ahead("<"):
            read.fail("special tokens are not text: write what they spell")
        name = read.match(_NAME)
        return None if name is None else self._named(name.group(), start, finish, in_terminal=in_terminal)

    def _group(self, closing: str, *, in_terminal: bool) -> int:
        read = self._read
        with read.nested():
            inner = self._alternatives(in_terminal=in_terminal)
            read.match(_BLANKS_AND_LINES)
            if not read.take(closing):
                read.fail(f"expected {closing!r}, not {read.next_shown()}")
        return inner

    def _named(self, name: str, start: int, finish: Callable[[int], int], *, in_terminal: bool) -> int:
        read = self._read
        if read.ahead("{") and not _TIMES.match(read.source, read.at):
            read.fail("templates are not supported", start)
        if in_terminal and not _is_terminal(name):
            read.fail(f"a terminal cannot contain the rule {name!r}: write that one in capitals", start)
        reference = read.use(name, start)
        return finish(reference) if _is_terminal(name) else reference

    def _and_ignored(self, terminal: int) -> int:
        return self._e.sequence(terminal, self._skip)

    def _json_value(self, start: int) -> object:
        self._read.match(_BLANKS_AND_LINES)
        try:
            decoder = json.JSONDecoder(parse_float=Decimal)
            value, self._read.at = decoder.raw_decode(self._read.source, self._read.at)
        except json.JSONDecodeError as error:
            self._read.fail(f"expected JSON: {error.msg}", error.pos)
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number of thousands of digits, thousands of brackets
            self._read.fail(f"expected JSON: {error}", start)
        found: object = value
        return found

    def _json(self, start: int) -> int:
        """`%json {...}`: the JSON texts of a schema, as one terminal.

        As in llguidance, the schema may say how it is written, by `"x-guidance": {"whitespace_flexible":
        false}`.
        """
        schema = self._json_value(start)
        spaces = _SPACES
        if isinstance(schema, dict) and "x-guidance" in schema:
            options = schema.pop("x-guidance")
            if not isinstance(options, dict) or set(options) - {"whitespace_flexible"}:
                self._read.fail("x-guidance: only whitespace_flexible is supported", start)
            spaces = _SPACES if options.get("whitespace_flexible", True) else 0
        try:
            return json_schema(self._e, schema, max_whitespace=spaces, any_order=False, lenient=False)[0]
        except InvalidSchema as error:
            error.add_note(f"in the schema of %json at line {self._read.source.count(chr(10), 0, start) + 1}")
            raise

    def _string(self, string: re.Match[str], start: int) -> int:
        read = self._read
        text = self._unescaped(string)
        if read.take(".."):
            last = read.match(_STRING)
            end = self._unescaped(last) if last else ""
            if len(text) != 1 or len(end) != 1 or end < text or string[2]:
                read.fail('a range goes from one character up to another: "a".."z"', start)
            return self._e.character(((ord(text), ord(end)),))
        if string[2]:
            return self._regex(re.escape(text), re.IGNORECASE, start)
        try:
            return self._e.literal(text) if text else EMPTY
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form
            return FAIL

    def _unescaped(self, string: re.Match[str]) -> str:
        """The text of a literal. What Lark and llguidance read differently is refused."""

        def character(escape: re.Match[str]) -> str:
            if escape[2]:
                place = string.start(1) + escape.start()
                self._read.fail(f"unknown escape {escape[2]}: write \\\\ for a backslash", place)
            return chr(int(escape[1][1:], 16)) if len(escape[1]) > 1 else _ESCAPES[escape[1]]

        return _ESCAPE.sub(character, string[1])

    def _regex(self, pattern: str, flags: int, start: int) -> int:
        try:
            return regex(self._e, pattern, flags=flags, inside=True)
        except InvalidPattern as error:
            self._read.fail(str(error), start)


def _is_terminal(name: str) -> bool:
    return name.lstrip("_")[0].isupper()
