# SPDX-License-Identifier: Apache-2.0
"""Server-sent events: bytes in pieces of any size become the data of each event.

Lines end with LF, CRLF or CR and nothing else; in particular U+2028 inside a JSON string ends no line.
https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r")


def events(pieces: Iterable[bytes]) -> Iterator[str]:
    """The `data` of each complete event: its data lines joined with a newline. Other fields are skipped."""
    data: list[bytes] = []
    for line in _lines(pieces):
        if not line:
            if data:
                yield b"\n".join(data).decode()
            data = []
        elif line == b"data" or line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Complete lines without their ends; what follows the last line end is dropped."""
    rest = b""
    for piece in pieces:
        rest += piece
        start = 0
        for end in _LINE_END.finditer(rest):
            if end.group() == b"\r" and end.end() == len(rest):
                break  # an LF may follow, and then belongs to this line end
            yield rest[start : end.start()]
            start = end.end()
        rest = rest[start:]
    if rest.endswith(b"\r"):
        yield rest[:-1]
