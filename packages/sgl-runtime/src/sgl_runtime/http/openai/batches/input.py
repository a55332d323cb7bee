# SPDX-License-Identifier: Apache-2.0
"""The input of a batch: a file of requests, one a line, read piece by piece. Methods block.

A line that is no request is told apart here, and is an error of its own; the others are none the wiser.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.body import decode

_PIECE = 2**20  # bytes of input that are read at once, or one line


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line as it should be."""

    custom_id: Annotated[str, Meta(min_length=1, max_length=512)]
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class Line(msgspec.Struct, frozen=True):
    number: int  # from 0
    custom_id: str | None
    ask: Ask | InvalidRequest  # or why it is none


class Scan(msgspec.Struct, frozen=True):
    """What must be known of all lines before the first is answered."""

    total: int
    repeated: frozenset[int]  # lines with the custom_id of an earlier one
    models: frozenset[str]  # that lines name


class _Named(msgspec.Struct, frozen=True):
    """What an error can be told about."""

    custom_id: Any = None
    body: msgspec.Raw = msgspec.Raw()


class _Body(msgspec.Struct, frozen=True):
    model: Any = None


_NOTHING = _Named()
_ASK = msgspec.json.Decoder(Ask)
_NAMED = msgspec.json.Decoder(_Named)
_BODY = msgspec.json.Decoder(_Body)


def scan(path: Path, *, most: int, max_line: int) -> Scan:
    """Looks at no more than `most` + 1 lines. Raises OSError."""
    seen: set[str] = set()
    repeated: set[int] = set()
    models: set[str] = set()
    total = 0
    with path.open("rb") as file:
        for number, text in _texts(file, max_line):
            total += 1
            found = _NOTHING if text is None else _named(text)
            name = _told(found.custom_id)
            if (model := _model(found)) is not None:
                models.add(model)
            if name in seen:
                repeated.add(number)
            elif name is not None:
                seen.add(name)
            if total > most:
                break
    return Scan(total, frozenset(repeated), frozenset(models))


class Lines:
    """The lines of an input but for those to `skip`."""

    def __init__(
        self, path: Path, endpoint: str, repeated: Collection[int], *, skip: Collection[int], max_line: int
    ) -> None:
        """max_line: bytes; of a longer line nothing is kept."""
        self._path = path
        self._endpoint = endpoint
        self._repeated = repeated
        self._skip = skip
        self._max_line = max_line
        self._offset = 0  # in bytes, and the number of the line that begins there
        self._number = 0

    def more(self) -> list[Line]:
        """The next of them, none at the end. Raises OSError."""
        lines: list[Line] = []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            begun = self._offset
            for number, text in _texts(file, self._max_line, self._number):
                if number not in self._skip:
                    lines.append(self._line(number, text))
                self._offset, self._number = file.tell(), number + 1
                if lines and self._offset - begun >= _PIECE:
                    break
        return lines

    def _line(self, number: int, text: bytes | None) -> Line:
        if text is None:
            return _wrong(number, None, f"more than {self._max_line} bytes (--max-body-size)", None)
        try:
            ask = decode(text, _ASK)
        except InvalidRequest as error:
            return _wrong(
                number, _told(_named(text).custom_id), error.message.removeprefix("the body "), error.param
            )
        if number in self._repeated:
            return _wrong(number, ask.custom_id, "custom_id: an earlier line has the same", "custom_id")
        if ask.url != self._endpoint:
            why = f"url: the endpoint of the batch is {self._endpoint}, not {ask.url[:100]!r}"
            return _wrong(number, ask.custom_id, why, "url")
        return Line(number, ask.custom_id, ask)


def _wrong(number: int, name: str | None, why: str, param: str | None) -> Line:
    return Line(number, name, InvalidRequest(f"line {number + 1}: {why}", param=param))


def _texts(file: BinaryIO, longest: int, number: int = 0) -> Iterator[tuple[int, bytes | None]]:
    """Number and text of each line that is not blank; None for one longer than `longest` bytes."""
    while text := file.readline(longest + 1):
        if len(text) > longest and not text.endswith(b"\n"):
            while not text.endswith(b"\n") and (text := file.readline(_PIECE)):
                pass
            yield number, None
        elif not text.isspace():
            yield number, text
        number += 1


def _named(text: bytes) -> _Named:
    """What can be found, however wrong the rest is."""
    try:
        return _NAMED.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _NOTHING


def _model(found: _Named) -> str | None:
    try:
        return _told(_BODY.decode(found.body).model)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _told(name: Any) -> str | None:
    return name[:512] if isinstance(name, str) else None
