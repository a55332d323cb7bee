# SPDX-License-Identifier: Apache-2.0
"""Strings as JSON writes them, and the formats that are enforced.

A character has one way to be written wherever a string must meet a condition (a pattern, a length, a key that
is not another key): itself, or the short escape it needs. Strings without conditions may use every escape
JSON has.
"""

from __future__ import annotations

from json.encoder import encode_basestring
from typing import Final

from sgl_constrain.codepoints import ANY, Ranges, complement, intersection
from sgl_constrain.expression import EMPTY, Expressions, shallow

_ESCAPED: Ranges = ((0x00, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
_PLAIN = complement(_ESCAPED)


def escape(text: str) -> bytes:
    """The text between the quotes of its JSON string. A lone surrogate is written as an escape."""
    return encode_basestring(text)[1:-1].encode("utf-8", "backslashreplace")


class JsonLetters:
    """Characters as they stand in a JSON string: what `regex` needs to read a pattern into one."""

    def __init__(self, expressions: Expressions) -> None:
        self._expressions = expressions
        self._known: dict[Ranges, int] = {}
        self.any_character = self.character(ANY)
        self.any_string = expressions.repeat(self.any_character, 0)

    def over(self, expressions: Expressions) -> JsonLetters:
        """The same over a copy of the table."""
        other = shallow(self)
        other._expressions, other._known = expressions, self._known.copy()
        return other

    def character(self, ranges: Ranges) -> int:
        known = self._known.get(ranges)
        if known is None:
            plain = self._expressions.character(intersection(ranges, _PLAIN))
            escaped = {
                escape(chr(point)): EMPTY
                for low, high in intersection(ranges, _ESCAPED)
                for point in range(low, high + 1)
            }
            known = self._known[ranges] = self._expressions.choice([plain, self._expressions.words(escaped)])
        return known

    def literal(self, text: str) -> int:
        text.encode()  # a lone surrogate is no text: the same UnicodeEncodeError as everywhere
        return self._expressions.words({escape(text): EMPTY})


def any_content(expressions: Expressions) -> int:
    """What may stand between the quotes of a string nothing is asked of: all of JSON's escapes, in
    whole characters.
    """
    digit = expressions.character(((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)))
    d = expressions.character(((0x44, 0x44), (0x64, 0x64)))
    not_d = expressions.character(((0x30, 0x39), (0x41, 0x43), (0x45, 0x46), (0x61, 0x63), (0x65, 0x66)))
    low_nibble = expressions.character(((0x30, 0x37),))
    high_half = expressions.character(((0x38, 0x39), (0x41, 0x42), (0x61, 0x62)))
    low_half = expressions.character(((0x43, 0x46), (0x63, 0x66)))
    unit = expressions.literal("\\u")
    sequence, choice = expressions.sequence, expressions.choice
    scalar = choice([sequence(not_d, digit, digit, digit), sequence(d, low_nibble, digit, digit)])
    pair = sequence(d, high_half, digit, digit, unit, d, low_half, digit, digit)
    return expressions.repeat(
        choice(
            [
                expressions.character(_PLAIN),
                sequence(expressions.literal("\\"), expressions.character(_SHORT_ESCAPES)),
                sequence(unit, choice([scalar, pair])),
            ]
        ),
        0,
    )


_SHORT_ESCAPES: Ranges = tuple((ord(c), ord(c)) for c in '"/\\bfnrt')

_YEAR_29 = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_YEAR = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9][0-9]|[0-9][1-9][0-9]{2}|[1-9][0-9]{3})"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_YEAR_29}-02-29)"
)
_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]+)?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_DAYS = "(?:[0-9]+Y(?:[0-9]+M(?:[0-9]+D)?)?|[0-9]+M(?:[0-9]+D)?|[0-9]+D)"
_HOURS = "T(?:[0-9]+H(?:[0-9]+M(?:[0-9]+S)?)?|[0-9]+M(?:[0-9]+S)?|[0-9]+S)"
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = rf"{_OCTET}(?:\.{_OCTET}){{3}}"
_H16 = r"[0-9A-Fa-f]{1,4}"
_LS32 = rf"(?:{_H16}:{_H16}|{_IPV4})"
_IPV6 = "(?:" + "|".join(
    [rf"(?:{_H16}:){{6}}{_LS32}", rf"::(?:{_H16}:){{5}}{_LS32}", rf"(?:{_H16})?::(?:{_H16}:){{4}}{_LS32}"]
    + [rf"(?:(?:{_H16}:){{0,{n}}}{_H16})?::(?:{_H16}:){{{4 - n}}}{_LS32}" for n in (1, 2, 3)]
    + [rf"(?:(?:{_H16}:){{0,4}}{_H16})?::{_LS32}"]
    + [rf"(?:(?:{_H16}:){{0,5}}{_H16})?::{_H16}", rf"(?:(?:{_H16}:){{0,6}}{_H16})?::"]
) + ")"  # fmt: skip
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*"
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_PCHAR = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})"
_AUTHORITY = (
    rf"(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{{2}})*@)?"
    rf"(?:\[{_IPV6}\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{{2}})*)(?::[0-9]*)?"
)

FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}[tT]{_TIME}",
    "duration": f"P(?:{_DAYS}(?:{_HOURS})?|{_HOURS}|[0-9]+W)",
    "email": rf"{_ATOM}(?:\.{_ATOM})*@{_LABEL}(?:\.{_LABEL})*",
    "hostname": _HOSTNAME,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": rf"[A-Za-z][A-Za-z0-9+.-]*:(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?"
    rf"|{_PCHAR}+(?:/{_PCHAR}*)*|)(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?",
    "uuid": r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}",
}
"""Formats that are enforced, as ECMA patterns for the whole string. Every other format is an annotation."""
