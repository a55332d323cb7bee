# SPDX-License-Identifier: Apache-2.0
"""`Line`: the line of a user's program that asked for something; named when that fails in another thread."""

from __future__ import annotations

import functools
import linecache
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """A line of source code; as a str it looks like an entry of a traceback."""

    filename: str
    number: int
    function: str

    def __str__(self) -> str:
        place = f'  File "{self.filename}", line {self.number}, in {self.function}'
        source = linecache.getline(self.filename, self.number).strip()
        return f"{place}\n    {source}" if source else place


def line_of_user() -> Line:
    """The line outside of this package from which it was called."""
    frame = sys._getframe(1)
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return Line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


@functools.cache  # asked for each frame of each thing that is appended
def _is_ours(module: str) -> bool:
    """Not the user's: contextlib stands between a `with s.user():` and this package."""
    return module.partition(".")[0] in ("sgl_lang", "contextlib")
