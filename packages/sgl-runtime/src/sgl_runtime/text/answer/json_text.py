# SPDX-License-Identifier: Apache-2.0
"""JSON in an answer: reading over values, and calls written as `{"name": ..., "arguments": {...}}`.

Values are checked as RFC 8259 has them, but not built: what is handed on is the text that the model wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Set as AbstractSet
from typing import Final

from sgl_runtime.text.answer.pieces import Arguments, Call, Reading
from sgl_runtime.text.answer.source import Source, Waiting

_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')
_NUMERIC = re.compile(r"[-+.0-9eE]*")
_HEX = re.compile(r"[0-9a-fA-F]")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS: Final = {"t": "true", "f": "false", "n": "null"}
_ARGUMENTS = ("arguments", "parameters")


class NotJson(Exception):
    """The next character, or the end, cannot stand here."""


class NotACall(Exception):
    """What has been read is no call, and nothing of it has been handed on."""


def read_value(source: Source) -> Waiting[None]:
    """Over one value and the blanks before it. Raises NotJson at the first character that is wrong."""
    closers: list[str] = []
    while True:
        yield from source.blanks()
        character = yield from source.peek()
        if character == "{":
            source.skip(1)
            if (yield from _next_key(source, "{")) is not None:
                closers.append("}")
                continue
        elif character == "[":
            source.skip(1)
            yield from source.blanks()
            if not (yield from source.accept("]")):
                closers.append("]")
                continue
        else:
            yield from _read_scalar(source, character)
        while closers:  # a value has ended, and maybe what it is in
            if closers[-1] == "}":
                if (yield from _next_key(source, ",")) is not None:
                    break
            else:
                yield from source.blanks()
                if (yield from source.accept(",")):
                    break
                yield from _demand(source, "]")
            closers.pop()
        else:
            return


def read_string(source: Source) -> Waiting[str]:
    """Over a string; what it says. Raises NotJson."""
    yield from _demand(source, '"')
    written = '"'
    while True:
        written += yield from source.run(_PLAIN)
        if (yield from source.accept('"')):
            said = json.loads(written + '"')
            assert isinstance(said, str)
            return said
        yield from _demand(source, "\\")
        written += "\\" + (yield from _read_escape(source))


def _read_escape(source: Source) -> Waiting[str]:
    """What follows a backslash."""
    escape = yield from source.peek()
    if not escape or escape not in '"\\/bfnrtu':
        raise NotJson
    source.skip(1)
    if escape == "u":
        for _ in range(4):
            digit = yield from source.peek()
            if not _HEX.fullmatch(digit):
                raise NotJson
            source.skip(1)
            escape += digit
    return escape


def read_call(source: Source, names: AbstractSet[str], *, end: str | None) -> Reading:
    """A call as an object with a name and arguments, in either order, and with whatever else.

    Raises NotACall, with nothing read but what is held, for anything else or a name that is not one of
    `names`. Once the name is known the call counts: arguments that break are handed on as they are, up to
    `end`, or to the end of the text if that is None.
    """
    name: str | None = None
    early: str | None = None  # arguments that came before the name
    given = False
    try:
        yield from _demand(source, "{")
        key = yield from _next_key(source, "{")
        while key is not None:
            yield from source.blanks()
            if key == "name" and name is None:
                name = yield from read_string(source)
                if name not in names:
                    raise NotACall
                source.release()
                yield Call(name)
                if early is not None:
                    yield Arguments(early)
                    given = True
            elif key in _ARGUMENTS and name is None and early is None:
                early = yield from _whole_arguments(source)
            elif key in _ARGUMENTS and name is not None and not given:
                given = True
                source.release()
                yield from read_arguments(source, end=end)
            else:
                yield from read_value(source)
            key = yield from _next_key(source, ",")
    except NotJson:
        if name is None:
            raise NotACall from None
        return
    if name is None:
        raise NotACall
    if not given:
        yield Arguments("{}")


def read_arguments(source: Source, *, end: str | None) -> Reading:
    """An object, handed on as it comes; or one written into a string, or null, when it is complete.

    Anything else is handed on up to `end`, or to the end of the text.
    """
    try:
        character = yield from source.peek()
        if character != "{":
            arguments = yield from _whole_arguments(source)
            source.release()
            yield Arguments(arguments)
            return
        for _ in read_value(source):
            yield Arguments(source.release())
            yield None
        yield Arguments(source.release())
    except NotJson:
        if end is None:
            yield from source.rest(Arguments)
        else:
            yield from source.until(end, Arguments)


def _whole_arguments(source: Source) -> Waiting[str]:
    """The same, in one piece."""
    start = len(source.held)
    character = yield from source.peek()
    if character == '"':
        text = yield from read_string(source)
        if not _is_object(text):
            raise NotJson
        return text
    yield from read_value(source)
    text = source.held[start:]
    if text == "null":
        return "{}"
    if character != "{":
        raise NotJson
    return text


def _is_object(text: str) -> bool:
    try:
        text.encode()
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _next_key(source: Source, before: str) -> Waiting[str | None]:
    """The next key of an object, with its colon; None if the object ends. `before`: `{` or `,`."""
    yield from source.blanks()
    if (yield from source.accept("}")):
        return None
    if before == ",":
        yield from _demand(source, ",")
        yield from source.blanks()
    key = yield from read_string(source)
    yield from source.blanks()
    yield from _demand(source, ":")
    return key


def _read_scalar(source: Source, character: str) -> Waiting[None]:
    if character == '"':
        yield from read_string(source)
    elif character in _WORDS:
        yield from _demand(source, _WORDS[character])
    else:
        number = yield from source.run(_NUMERIC)
        if not _NUMBER.fullmatch(number):
            raise NotJson


def _demand(source: Source, literal: str) -> Waiting[None]:
    if not (yield from source.accept(literal)):
        raise NotJson
