# SPDX-License-Identifier: Apache-2.0
"""Sets of characters as patterns write them: escapes, classes, `[...]`. Python's `re` and ECMA-262 differ in
which escapes they have and in what `\\d \\w \\s` mean. A surrogate may stand in a pattern and matches
nothing.
"""

from __future__ import annotations

import re
import string
import unicodedata

from sgl_constrain import codepoints
from sgl_constrain.codepoints import Ranges, complement, union
from sgl_constrain.errors import UnsupportedPattern
from sgl_constrain.pattern_cursor import Cursor

_ASCII, _IGNORECASE = int(re.ASCII), int(re.IGNORECASE)  # see `regex`
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEXADECIMAL = frozenset(string.hexdigits)
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_LONG_CATEGORIES = {
    "Letter": "L",
    "Lowercase_Letter": "Ll",
    "Uppercase_Letter": "Lu",
    "Mark": "M",
    "Number": "N",
    "Decimal_Number": "Nd",
    "digit": "Nd",
    "Punctuation": "P",
    "punct": "P",
    "Symbol": "S",
    "Separator": "Z",
    "Other": "C",
}


class Characters:
    """Reads what stands at the cursor. Raises InvalidPattern, UnsupportedPattern."""

    def __init__(self, cursor: Cursor, *, ecma: bool) -> None:
        self._cursor = cursor
        self._ecma = ecma

    def category(self, flags: int) -> Ranges | None:
        """The characters of `\\d`, `\\w`, `\\s`, their opposites, or (ECMA) `\\p{..}`, `\\P{..}`; None
        otherwise.
        """
        letter = self._cursor.peek()
        if letter in ("p", "P") and self._ecma:
            return self._property(letter == "P")
        if letter == "" or letter not in "dDwWsS":
            return None
        self._cursor.at += 1
        small = letter.lower()
        if self._ecma or flags & _ASCII:
            space = codepoints.ECMA_SPACE if self._ecma else codepoints.ASCII_SPACE
            ranges = {"d": codepoints.ASCII_DIGIT, "w": codepoints.ASCII_WORD, "s": space}[small]
        else:
            ranges = codepoints.matching("\\" + small)
        return ranges if letter == small else complement(ranges)

    def _property(self, negated: bool) -> Ranges:
        start = self._cursor.at - 1
        self._cursor.at += 1
        if not self._cursor.take("{"):
            self._cursor.fail("missing { after \\p", start)
        name = self._cursor.until("}", start, "property")
        value = name.removeprefix("General_Category=").removeprefix("gc=")
        ranges = codepoints.category(_LONG_CATEGORIES.get(value, value)) if value else None
        if ranges is None:
            self._cursor.fail(f"the Unicode property {name!r} is not supported", start, UnsupportedPattern)
        return complement(ranges) if negated else ranges

    def escaped_point(self, start: int, *, in_set: bool) -> int:
        """The code point that the escape at hand (after its backslash) stands for."""
        letter = self._cursor.peek()
        self._cursor.at += 1
        if letter in _CONTROL and not (self._ecma and letter == "a"):
            return ord(_CONTROL[letter])
        if letter == "b" and in_set:
            return 0x08
        if letter in _HEX_DIGITS and not (self._ecma and letter == "U"):
            return self._hexadecimal(letter, start)
        if letter == "N" and not self._ecma:
            return self._named(start)
        if letter in "01234567":
            return self._octal(start, in_set=in_set)
        if self._ecma and letter == "c" and self._cursor.peek().isascii() and self._cursor.peek().isalpha():
            self._cursor.at += 1
            return ord(self._cursor.pattern[self._cursor.at - 1]) & 0x1F
        if letter in "89" or (letter.isascii() and letter.isalpha()):
            self._cursor.fail(f"bad escape \\{letter}", start)
        return ord(letter)

    def _hexadecimal(self, letter: str, start: int) -> int:
        if self._ecma and letter == "u" and self._cursor.take("{"):
            digits = self._cursor.until("}", start, "escape")
            valid = 1 <= len(digits) <= 6
        else:
            length = _HEX_DIGITS[letter]
            digits = self._cursor.peek(length)
            valid = len(digits) == length
            self._cursor.at += length
        if not valid or not _HEXADECIMAL.issuperset(digits) or int(digits, 16) > codepoints.MAX:
            self._cursor.fail(f"incomplete or bad escape \\{letter}{digits}", start)
        point = int(digits, 16)
        if self._ecma and 0xD800 <= point < 0xDC00:  # perhaps the first half of a pair of UTF-16 units
            low = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(self._cursor.pattern, self._cursor.at)
            if low:
                self._cursor.at = low.end()
                point = 0x10000 + ((point - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        return point

    def _named(self, start: int) -> int:
        if not self._cursor.take("{"):
            self._cursor.fail("missing {", start)
        name = self._cursor.until("}", start, "name")
        try:
            return ord(unicodedata.lookup(name))
        except (KeyError, TypeError):
            self._cursor.fail(f"undefined character name {name!r}", start)

    def _octal(self, start: int, *, in_set: bool) -> int:
        digits = re.compile(r"[0-7]{1,3}").match(self._cursor.pattern, self._cursor.at - 1)
        assert digits is not None
        self._cursor.at = digits.end()
        if int(digits.group(), 8) > 0o377:
            self._cursor.fail(f"octal escape value \\{digits.group()} outside of range 0-0o377", start)
        return int(digits.group(), 8)

    def set(self, start: int, flags: int) -> Ranges:
        """The characters of `[...]`, after its bracket."""
        negated = self._cursor.take("^")
        ranges: list[tuple[int, int]] = []
        categories: list[Ranges] = []
        opening = self._cursor.at
        while True:
            here = self._cursor.at
            if here >= len(self._cursor.pattern):
                self._cursor.fail("unterminated character set", start)
            if self._cursor.peek() == "]" and (here != opening or self._ecma):
                self._cursor.at += 1
                break
            low = self._set_member(flags)
            if self._cursor.peek() == "-" and self._cursor.peek(2) not in ("-]", "-"):
                self._cursor.at += 1
                high = self._set_member(flags)
                if isinstance(low, tuple) or isinstance(high, tuple) or low > high:
                    written = self._cursor.pattern[here : self._cursor.at]
                    self._cursor.fail(f"bad character range {written}", here)
                ranges.append((low, high))
            elif isinstance(low, int):
                ranges.append((low, low))
            else:
                categories.append(low)
        members = union(ranges)
        if flags & _IGNORECASE:
            members = codepoints.ignore_case(members, ascii_only=bool(flags & _ASCII))
        members = union([*members, *(r for category in categories for r in category)])
        return complement(members) if negated else members

    def _set_member(self, flags: int) -> int | Ranges:
        start = self._cursor.at
        if not self._cursor.take("\\"):
            self._cursor.at += 1
            return ord(self._cursor.pattern[start])
        if self._cursor.at >= len(self._cursor.pattern):
            self._cursor.fail("unterminated character set", start)
        category = self.category(flags)
        return self.escaped_point(start, in_set=True) if category is None else category
