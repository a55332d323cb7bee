# SPDX-License-Identifier: Apache-2.0
"""A place in the text of a pattern, and errors that name it. Knows nothing of what the pattern means."""

from __future__ import annotations

from typing import NoReturn

from sgl_constrain.errors import InvalidPattern


class Cursor:
    """`at` counts characters of `pattern`; what reads the pattern moves it."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0

    def fail(self, message: str, position: int, error: type[InvalidPattern] = InvalidPattern) -> NoReturn:
        raise error(message, pattern=self.pattern, position=position)

    def peek(self, length: int = 1) -> str:
        return self.pattern[self.at : self.at + length]

    def take(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) * found
        return found

    def until(self, end: str, start: int, what: str) -> str:
        stop = self.pattern.find(end, self.at)
        if stop < 0:
            self.fail(f"missing {end!r}, unterminated {what}", start)
        text = self.pattern[self.at : stop]
        self.at = stop + len(end)
        return text
