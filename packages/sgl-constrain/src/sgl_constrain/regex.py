# SPDX-License-Identifier: Apache-2.0
"""Regular expressions as text -> expressions, with the meaning Python's `re` gives them.

What `re.fullmatch` matches, the expression matches, and nothing else; greedy or lazy is the same language.
What is not regular (backreferences, atomic groups, possessive repetition) and what this library does not
decide (word boundaries, lookbehind, `^` and `$` by line) is refused by name and position. `Dialect.ECMA`
reads patterns as JSON Schema means them. interegular is not used: its parser refuses anchors inside groups
and `\\u`, and its `\\d \\w \\s` are ASCII.
"""

from __future__ import annotations

import enum
import re
import unicodedata
from typing import NoReturn

from sgl_constrain import codepoints
from sgl_constrain.anchors import Anchor, Either, Letters, Lookahead, Place, Placement, Series, Tree
from sgl_constrain.codepoints import Ranges, complement, union
from sgl_constrain.errors import GrammarTooLarge, InvalidPattern, UnsupportedPattern
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Expressions

_FLAGS = {
    "a": re.ASCII, "i": re.IGNORECASE, "L": re.LOCALE, "m": re.MULTILINE, "s": re.DOTALL, "u": re.UNICODE,
    "x": re.VERBOSE,
}  # fmt: skip
_KNOWN_FLAGS = re.ASCII | re.IGNORECASE | re.MULTILINE | re.DOTALL | re.UNICODE | re.VERBOSE
_CONTROL = {"a": "\a", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_MOST_REPETITIONS = 4294967295  # as in `re`
_PLAIN_ALTERNATIVES = re.compile(r"[^\\.^$*+?{}\[\]()]*\|[^\\.^$*+?{}\[\]()]*(?=\)|\Z)")
_LITERAL_RUN = re.compile(r"[^\\.^$*+?{}\[\]|()]+")
_ECMA_SPACE: Ranges = union(
    (ord(first), ord(last))
    for first, last in (
        "\t\r",
        "  ",
        "\xa0\xa0",
        "\u1680\u1680",
        "\u2000\u200a",
        "\u2028\u2029",
        "\u202f\u202f",
        "\u205f\u205f",
        "\u3000\u3000",
        "\ufeff\ufeff",
    )
)
_ECMA_LINE_END: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))


class Dialect(enum.Enum):
    PYTHON = "Python's re"
    ECMA = "ECMA-262, as in JSON Schema"


def regex(
    expressions: Expressions,
    pattern: str,
    *,
    flags: int = 0,
    dialect: Dialect = Dialect.PYTHON,
    anywhere: bool = False,
    letters: Letters | None = None,
    inside: bool = False,
) -> int:
    """The expression of `pattern`, for the whole text or, with `anywhere`, for a text that contains a match.

    With `inside`, it is part of a longer text that the pattern does not see: anchors and lookaheads are
    refused.
    `letters` says how characters are written, when not as themselves: in a JSON string, a quote is two
    characters. `flags` are those of `re` (A, I, S, U, X; M only where it changes nothing). Raises
    InvalidPattern, UnsupportedPattern, GrammarTooLarge.
    """
    if len(pattern) > expressions.limits.source_chars:
        raise GrammarTooLarge(f"the pattern has {len(pattern)} characters", limit="source_chars")
    letters = letters or expressions
    tree = _Parser(expressions, letters, pattern, flags, dialect).parse()
    if inside and not isinstance(tree, int):
        message = "anchors and lookaheads ask for text outside of this pattern, and are not supported here"
        raise UnsupportedPattern(message, pattern=pattern)
    placement = Placement(expressions, letters, pattern, newline_matters=dialect is Dialect.PYTHON)
    return placement.anywhere(tree) if anywhere else placement.whole(tree)


class _Parser:
    def __init__(
        self, expressions: Expressions, letters: Letters, pattern: str, flags: int, dialect: Dialect
    ) -> None:
        self._expressions = expressions
        self._letters = letters
        self._pattern = pattern
        self._flags = int(flags)
        self._ecma = dialect is Dialect.ECMA
        self._at = 0
        self._depth = 0
        self._names: set[str] = set()
        self._groups = 0
        if self._flags & ~_KNOWN_FLAGS:
            self._fail(
                f"flags {re.RegexFlag(self._flags & ~_KNOWN_FLAGS)!r} are not supported",
                0,
                UnsupportedPattern,
            )

    def parse(self) -> Tree:
        tree = self._alternatives(self._flags)
        if self._at < len(self._pattern):
            self._fail("unbalanced parenthesis", self._at)
        return tree

    def _fail(self, message: str, position: int, error: type[InvalidPattern] = InvalidPattern) -> NoReturn:
        raise error(message, pattern=self._pattern, position=position)

    def _peek(self, length: int = 1) -> str:
        return self._pattern[self._at : self._at + length]

    def _take(self, text: str) -> bool:
        found = self._pattern.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _until(self, end: str, start: int, what: str) -> str:
        stop = self._pattern.find(end, self._at)
        if stop < 0:
            self._fail(f"missing {end!r}, unterminated {what}", start)
        text = self._pattern[self._at : stop]
        self._at = stop + len(end)
        return text

    # -- structure -------------------------------------------------------------------------------------------

    def _alternatives(self, flags: int) -> Tree:
        if not flags & (re.IGNORECASE | re.VERBOSE):
            words = _PLAIN_ALTERNATIVES.match(self._pattern, self._at)
            if words:  # thousands of names, in one step
                self._at = words.end()
                return self._expressions.choice(map(self._text, words.group().split("|")))
        options: list[Tree] = []
        while True:
            option, flags = self._series(flags)
            options.append(option)
            if not self._take("|"):
                break
        plain = [option for option in options if isinstance(option, int)]
        if len(plain) == len(options):
            return plain[0] if len(plain) == 1 else self._expressions.choice(plain)
        if plain:
            options = [o for o in options if not isinstance(o, int)] + [self._expressions.choice(plain)]
        return options[0] if len(options) == 1 else Either(tuple(options))

    def _series(self, flags: int) -> tuple[Tree, int]:
        """Parts up to `|`, `)` or the end. Also the flags, which `(?i)` at the very start changes."""
        parts: list[Tree] = []
        pattern = self._pattern
        plain_text = not flags & (re.IGNORECASE | re.VERBOSE)
        while self._at < len(pattern) and pattern[self._at] not in "|)":
            if plain_text and (text := _LITERAL_RUN.match(pattern, self._at)):
                self._at = text.end()
                if self._peek() in ("*", "+", "?", "{"):
                    self._at -= 1  # a repetition belongs to the last character only
                if self._at > text.start():
                    parts.append(self._text(pattern[text.start() : self._at]))
                    continue
            if flags & re.VERBOSE and self._skip_verbose():
                continue
            start = self._at
            if self._take("(?"):
                changed = self._global_flags(start, flags)
                if changed is not None:
                    flags = changed
                    plain_text = not flags & (re.IGNORECASE | re.VERBOSE)
                    continue
                self._at = start
            part = self._part(flags)
            if part is not None:
                parts.append(self._repeated(part, flags, start))
        return self._joined(parts), flags

    def _skip_verbose(self) -> bool:
        if self._at < len(self._pattern) and self._peek() in " \t\n\r\v\f":
            self._at += 1
            return True
        if self._take("#"):
            end = self._pattern.find("\n", self._at)
            self._at = len(self._pattern) if end < 0 else end + 1
            return True
        return False

    def _text(self, text: str) -> int:
        try:
            return self._letters.literal(text)
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8 form: no text contains it
            return FAIL

    def _joined(self, parts: list[Tree]) -> Tree:
        joined: list[Tree] = []
        run: list[int] = []
        for part in parts:
            for piece in part.parts if isinstance(part, Series) else (part,):
                if isinstance(piece, int):
                    run.append(piece)
                    continue
                if run:
                    joined.append(self._expressions.sequence(*run))
                    run = []
                joined.append(piece)
        if run or not joined:
            joined.append(self._expressions.sequence(*run))
        return joined[0] if len(joined) == 1 else Series(tuple(joined))

    def _repeated(self, part: Tree, flags: int, start: int) -> Tree:
        while flags & re.VERBOSE and self._skip_verbose():
            pass
        here = self._at
        bounds = self._bounds()
        if bounds is None:
            return part
        if isinstance(part, Anchor) and self._pattern[start] != "(":
            self._fail("nothing to repeat", here)
        if self._take("+"):
            self._fail("possessive repetition is not regular", here, UnsupportedPattern)
        self._take("?")
        while flags & re.VERBOSE and self._skip_verbose():
            pass
        again = self._at
        if self._bounds() is not None:
            self._fail("multiple repeat", again)
        least, most = bounds
        if isinstance(part, int):
            return self._expressions.repeat(part, least, most)
        if isinstance(part, Anchor | Lookahead):
            return part if least else EMPTY  # they read nothing: once is as good as often
        if (least, most) == (1, 1):
            return part
        if (least, most) == (0, 1):
            return Either((part, EMPTY))
        if most != 0:
            self._fail(
                "a repetition of a group with an anchor or lookahead in it is not supported",
                start,
                UnsupportedPattern,
            )
        return EMPTY

    def _bounds(self) -> tuple[int, int] | None:
        """The repetition that stands here, or None (a `{` that does not count is text)."""
        for sign, bounds in (("*", (0, ENDLESS)), ("+", (1, ENDLESS)), ("?", (0, 1))):
            if self._take(sign):
                return bounds
        counted = re.compile(r"\{(\d*)(,?)(\d*)\}", re.ASCII).match(self._pattern, self._at)
        if counted is None or counted.group() in ("{}",) or (self._ecma and not counted[1]):
            return None
        least = int(counted[1] or 0)
        most = (int(counted[3]) if counted[3] else ENDLESS) if counted[2] else least
        if max(least, most) >= _MOST_REPETITIONS:
            self._fail("the repetition number is too large", self._at)
        if most != ENDLESS and least > most:
            self._fail("min repeat greater than max repeat", self._at)
        self._at = counted.end()
        return least, most

    def _part(self, flags: int) -> Tree | None:
        """One part without its repetition; None for a comment."""
        start = self._at
        character = self._peek()
        self._at += 1
        if character == "(":
            return self._group(start, flags)
        if character == "[":
            return self._letters.character(self._set(start, flags))
        if character == "\\":
            return self._escape(start, flags)
        if character == ".":
            if flags & re.DOTALL:
                return self._letters.any_character
            ends = _ECMA_LINE_END if self._ecma else ((0x0A, 0x0A),)
            return self._letters.character(complement(ends))
        if character in "^$":
            return self._line_anchor(character, start, flags)
        if character in "*+?":
            self._fail("nothing to repeat", start)
        if character == "{":
            self._at = start
            if self._bounds() is not None:
                self._fail("nothing to repeat", start)
            self._at = start + 1
        return self._character(((ord(character), ord(character)),), flags)

    def _line_anchor(self, character: str, start: int, flags: int) -> Anchor:
        if flags & re.MULTILINE:
            self._fail(
                f"{character!r} at line ends (re.MULTILINE) is not supported", start, UnsupportedPattern
            )
        if character == "^":
            return Anchor(Place.START)
        return Anchor(Place.END if self._ecma else Place.LAST_LINE_END)

    def _character(self, ranges: Ranges, flags: int) -> int:
        if flags & re.IGNORECASE:
            ranges = codepoints.ignore_case(ranges, ascii_only=bool(flags & re.ASCII))
        return self._letters.character(ranges)

    # -- groups ----------------------------------------------------------------------------------------------

    def _global_flags(self, start: int, flags: int) -> int | None:
        """The flags after `(?flags)`, which must stand at the very start; None when this is another kind of
        group.
        """
        letters = re.compile(r"([a-zA-Z]+)\)").match(self._pattern, self._at)
        if letters is None or self._ecma:
            return None
        on = self._flag_letters(letters[1], start)
        if start != 0:
            self._fail("global flags not at the start of the expression", start)
        self._at = letters.end()
        return self._with_flags(flags, on, 0, start)

    def _flag_letters(self, letters: str, start: int) -> int:
        flags = 0
        for letter in letters:
            if letter not in _FLAGS:
                self._fail("unknown flag", start)
            if letter == "L":
                self._fail("the L flag needs a bytes pattern", start)
            flags |= _FLAGS[letter]
        return flags

    def _with_flags(self, flags: int, on: int, off: int, start: int) -> int:
        if on & re.ASCII and (on & re.UNICODE or (start == 0 and flags & re.UNICODE)):
            self._fail("flags 'a' and 'u' are incompatible", start)
        if on & (re.ASCII | re.UNICODE):
            flags &= ~(re.ASCII | re.UNICODE)
        return (flags | on) & ~off

    def _group(self, start: int, flags: int) -> Tree | None:
        self._depth += 1
        if self._depth > self._expressions.limits.nesting:
            raise GrammarTooLarge(
                f"groups nested deeper than {self._expressions.limits.nesting}", limit="nesting"
            )
        tree = self._group_body(start, flags)
        self._depth -= 1
        return tree

    def _group_body(self, start: int, flags: int) -> Tree | None:
        if not self._take("?"):
            self._groups += 1
            return self._inside(start, flags)
        if self._take("#") and not self._ecma:
            self._until(")", start, "comment")
            return None
        if self._take(":"):
            return self._inside(start, flags)
        if self._peek() in ("=", "!"):
            negative = self._peek() == "!"
            self._at += 1
            return Lookahead(self._inside(start, flags), negative, start)
        if self._peek(2) in ("<=", "<!"):
            self._fail("lookbehind is not supported", start, UnsupportedPattern)
        if self._take("P<") or (self._ecma and self._take("<")):
            name = self._until(">", start, "name")
            if not name.isidentifier():
                self._fail(f"bad character in group name {name!r}", start)
            if name in self._names:
                self._fail(f"redefinition of group name {name!r}", start)
            self._names.add(name)
            self._groups += 1
            return self._inside(start, flags)
        if self._peek(2) == "P=":
            self._fail("backreferences are not regular", start, UnsupportedPattern)
        if self._peek() == ">":
            self._fail("atomic groups are not regular", start, UnsupportedPattern)
        if self._peek() == "(":
            self._fail("conditional groups are not regular", start, UnsupportedPattern)
        return self._inside(start, self._scoped_flags(start, flags))

    def _scoped_flags(self, start: int, flags: int) -> int:
        letters = re.compile(r"([a-zA-Z]*)(?:-([a-zA-Z]+))?:").match(self._pattern, self._at)
        if letters is None or self._ecma:
            self._fail("unknown extension", start)
        on, off = self._flag_letters(letters[1], start), self._flag_letters(letters[2] or "", start)
        if off & (re.ASCII | re.UNICODE):
            self._fail("bad inline flags: cannot turn off flags 'a' and 'u'", start)
        if on & off:
            self._fail("bad inline flags: flag turned on and off", start)
        self._at = letters.end()
        return self._with_flags(flags, on, off, -1)

    def _inside(self, start: int, flags: int) -> Tree:
        tree = self._alternatives(flags)
        if not self._take(")"):
            self._fail("missing ), unterminated subpattern", start)
        return tree

    # -- characters ------------------------------------------------------------------------------------------

    def _escape(self, start: int, flags: int) -> Tree:
        letter = self._peek()
        if letter == "":
            self._fail("bad escape (end of pattern)", start)
        if letter in "bB":
            self._fail(f"\\{letter} (word boundary) is not supported", start, UnsupportedPattern)
        if letter in "AZ" and not self._ecma:
            self._at += 1
            return Anchor(Place.START if letter == "A" else Place.END)
        if letter in "123456789" and not re.compile(r"[0-7]{3}").match(self._pattern, self._at):
            self._fail("backreferences are not regular", start, UnsupportedPattern)
        if letter == "k" and self._ecma:
            self._fail("backreferences are not regular", start, UnsupportedPattern)
        category = self._category(flags)
        if category is not None:
            return self._letters.character(category)
        point = self._escaped_point(start, in_set=False)
        return self._character(((point, point),), flags)

    def _category(self, flags: int) -> Ranges | None:
        """The characters of `\\d`, `\\w`, `\\s`, their opposites, or (ECMA) `\\p{..}`, `\\P{..}`; None
        otherwise.
        """
        letter = self._peek()
        if letter in ("p", "P") and self._ecma:
            return self._property(letter == "P")
        if letter == "" or letter not in "dDwWsS":
            return None
        self._at += 1
        small = letter.lower()
        if self._ecma or flags & re.ASCII:
            space = _ECMA_SPACE if self._ecma else codepoints.ASCII_SPACE
            ranges = {"d": codepoints.ASCII_DIGIT, "w": codepoints.ASCII_WORD, "s": space}[small]
        else:
            ranges = codepoints.matching("\\" + small)
        return ranges if letter == small else complement(ranges)

    def _property(self, negated: bool) -> Ranges:
        start = self._at - 1
        self._at += 1
        if not self._take("{"):
            self._fail("missing { after \\p", start)
        name = self._until("}", start, "property")
        value = name.removeprefix("General_Category=").removeprefix("gc=")
        ranges = codepoints.category(_LONG_CATEGORIES.get(value, value)) if value else None
        if ranges is None:
            self._fail(f"the Unicode property {name!r} is not supported", start, UnsupportedPattern)
        return complement(ranges) if negated else ranges

    def _escaped_point(self, start: int, *, in_set: bool) -> int:
        """The code point that the escape at hand (after its backslash) stands for."""
        letter = self._peek()
        self._at += 1
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
        if self._ecma and letter == "c" and self._peek().isascii() and self._peek().isalpha():
            self._at += 1
            return ord(self._pattern[self._at - 1]) & 0x1F
        if letter in "89" or (letter.isascii() and letter.isalpha()):
            self._fail(f"bad escape \\{letter}", start)
        return ord(letter)

    def _hexadecimal(self, letter: str, start: int) -> int:
        if self._ecma and letter == "u" and self._take("{"):
            digits = self._until("}", start, "escape")
            valid = bool(re.fullmatch(r"[0-9a-fA-F]{1,6}", digits))
        else:
            length = _HEX_DIGITS[letter]
            digits = self._peek(length)
            valid = bool(re.fullmatch(f"[0-9a-fA-F]{{{length}}}", digits))
            self._at += length
        if not valid or int(digits, 16) > codepoints.MAX:
            self._fail(f"incomplete or bad escape \\{letter}{digits}", start)
        point = int(digits, 16)
        if self._ecma and 0xD800 <= point < 0xDC00 and self._peek(2) == "\\u":  # a pair of UTF-16 units
            low = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})").match(self._pattern, self._at)
            if low:
                self._at = low.end()
                point = 0x10000 + ((point - 0xD800) << 10) + (int(low[1], 16) - 0xDC00)
        return point

    def _named(self, start: int) -> int:
        if not self._take("{"):
            self._fail("missing {", start)
        name = self._until("}", start, "name")
        try:
            return ord(unicodedata.lookup(name))
        except (KeyError, TypeError):
            self._fail(f"undefined character name {name!r}", start)

    def _octal(self, start: int, *, in_set: bool) -> int:
        digits = re.compile(r"[0-7]{1,3}").match(self._pattern, self._at - 1)
        assert digits is not None
        self._at = digits.end()
        if int(digits.group(), 8) > 0o377:
            self._fail(f"octal escape value \\{digits.group()} outside of range 0-0o377", start)
        return int(digits.group(), 8)

    def _set(self, start: int, flags: int) -> Ranges:
        """The characters of `[...]`, after its bracket."""
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        categories: list[Ranges] = []
        opening = self._at
        while True:
            here = self._at
            if here >= len(self._pattern):
                self._fail("unterminated character set", start)
            if self._peek() == "]" and (here != opening or self._ecma):
                self._at += 1
                break
            low = self._set_member(flags)
            if self._peek() == "-" and self._peek(2) not in ("-]", "-"):
                self._at += 1
                high = self._set_member(flags)
                if isinstance(low, tuple) or isinstance(high, tuple) or low > high:
                    self._fail(f"bad character range {self._pattern[here : self._at]}", here)
                ranges.append((low, high))
            elif isinstance(low, int):
                ranges.append((low, low))
            else:
                categories.append(low)
        members = union(ranges)
        if flags & re.IGNORECASE:
            members = codepoints.ignore_case(members, ascii_only=bool(flags & re.ASCII))
        members = union([*members, *(r for category in categories for r in category)])
        return complement(members) if negated else members

    def _set_member(self, flags: int) -> int | Ranges:
        start = self._at
        if not self._take("\\"):
            self._at += 1
            return ord(self._pattern[start])
        if self._at >= len(self._pattern):
            self._fail("unterminated character set", start)
        category = self._category(flags)
        return self._escaped_point(start, in_set=True) if category is None else category


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
