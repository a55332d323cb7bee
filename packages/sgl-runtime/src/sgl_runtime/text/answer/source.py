# SPDX-License-Identifier: Apache-2.0
"""`Source`: text that arrives in pieces, read as if all of it were there; `Reader` drives what reads it.

...released | held: read, may be read again | unread
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar

from sgl_runtime.text.answer.pieces import Arguments, Call, Piece, Reading, Reasoning, Text

T = TypeVar("T")
Waiting: TypeAlias = Generator[None, None, T]  # `yield from` it: it waits as long as the text does not decide

_BLANKS = re.compile(r"[ \t\r\n]*")


class Source:
    """A cursor. Every method that looks ahead waits until the answer is certain."""

    def __init__(self) -> None:
        self._text = ""
        self._held = 0  # where what has not been released begins
        self._at = 0
        self._ended = False

    def feed(self, text: str) -> None:
        self._text = self._text[self._held :] + text
        self._at -= self._held
        self._held = 0

    def end(self) -> None:
        """Nothing follows."""
        self._ended = True

    def release(self) -> str:
        """What has been read since the last release."""
        held = self._text[self._held : self._at]
        self._held = self._at
        return held

    def rewind(self) -> None:
        """Read again from the last release on."""
        self._at = self._held

    @property
    def held(self) -> str:
        """What `release` would return."""
        return self._text[self._held : self._at]

    def skip(self, characters: int) -> None:
        """Over characters that have been seen."""
        assert self._at + characters <= len(self._text), "only what is there can be read"
        self._at += characters

    def peek(self) -> Waiting[str]:
        """The next character; "" at the end."""
        while self._at == len(self._text) and not self._ended:
            yield None
        return self._text[self._at : self._at + 1]

    def accept(self, literal: str) -> Waiting[bool]:
        """Read `literal` if it comes next."""
        while not self._text.startswith(literal, self._at):
            if self._ended or not literal.startswith(self._text[self._at :]):
                return False
            yield None
        self._at += len(literal)
        return True

    def run(self, characters: re.Pattern[str]) -> Waiting[str]:
        """Read as much as matches; the pattern is one class of characters, repeated."""
        read = ""  # what is held may be released in between
        while True:
            found = characters.match(self._text, self._at)
            assert found is not None, "the pattern matches nothing, too"
            self._at = found.end()
            read += found[0]
            if self._at < len(self._text) or self._ended:
                return read
            yield None

    def blanks(self) -> Waiting[str]:
        """Read white space."""
        return (yield from self.run(_BLANKS))

    def until(self, literal: str, kind: Callable[[str], Piece]) -> Generator[Piece | None, None, bool]:
        """Release everything up to `literal`, which is not read, as pieces. False: it does not come any
        more. It is looked for in what is unread, not in what is held.
        """
        while (found := self._text.find(literal, self._at)) < 0:
            begun = _begun(self._text, self._at, literal)
            self._at = len(self._text)
            if self._ended:
                yield kind(self.release())
                return False
            self._at -= begun
            yield kind(self.release())
            yield None
        self._at = found
        yield kind(self.release())
        return True

    def rest(self, kind: Callable[[str], Piece]) -> Reading:
        """Release everything, to the end, as pieces."""
        while True:
            self._at = len(self._text)
            yield kind(self.release())
            if self._ended:
                return
            yield None


def _begun(text: str, start: int, literal: str) -> int:
    """The length of the longest end of text[start:] with which `literal` begins."""
    for length in range(min(len(literal) - 1, len(text) - start), 0, -1):
        if text.endswith(literal[:length]):
            return length
    return 0


class Reader:
    """One answer: `push` its text as it comes, then `finish`; both return the pieces that are certain now.

    Text pieces are joined, and empty ones left out.
    """

    def __init__(self, read: Callable[[Source], Reading]) -> None:
        self._source = Source()
        self._reading = read(self._source)

    def push(self, text: str) -> list[Piece]:
        self._source.feed(text)
        return self._advance()

    def finish(self) -> list[Piece]:
        self._source.end()
        return self._advance()

    def _advance(self) -> list[Piece]:
        pieces: list[Piece] = []
        for piece in self._reading:
            if piece is None:
                break
            _append(pieces, piece)
        return pieces


def _append(pieces: list[Piece], piece: Piece) -> None:
    if isinstance(piece, Call):
        pieces.append(piece)
    elif piece.text:
        last: Any = pieces[-1] if pieces else None
        if isinstance(last, Text | Reasoning | Arguments) and type(last) is type(piece):
            pieces[-1] = type(piece)(last.text + piece.text)
        else:
            pieces.append(piece)
