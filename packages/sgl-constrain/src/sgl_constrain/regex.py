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

from sgl_constrain import codepoints
from sgl_constrain.anchors import Anchor, Either, Letters, Lookahead, Place, Placement, Series, Tree
from sgl_constrain.codepoints import Ranges, complement
from sgl_constrain.errors import GrammarTooLarge, UnsupportedPattern
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Expressions
from sgl_constrain.pattern_characters import Characters
from sgl_constrain.pattern_cursor import Cursor

# As plain numbers: every use of `re`'s own takes its way through `enum`.
_ASCII, _IGNORECASE, _MULTILINE = int(re.ASCII), int(re.IGNORECASE), int(re.MULTILINE)
_DOTALL, _UNICODE, _VERBOSE = int(re.DOTALL), int(re.UNICODE), int(re.VERBOSE)
_KNOWN_FLAGS = _ASCII | _IGNORECASE | _MULTILINE | _DOTALL | _UNICODE | _VERBOSE
_FLAGS = {
    "a": _ASCII, "i": _IGNORECASE, "L": int(re.LOCALE), "m": _MULTILINE, "s": _DOTALL, "u": _UNICODE,
    "x": _VERBOSE,
}  # fmt: skip
_SIGNS = {"*": (0, ENDLESS), "+": (1, ENDLESS), "?": (0, 1)}
_COUNTS = re.compile(r"\{(\d*)(,?)(\d*)\}", re.ASCII)
_MOST_REPETITIONS = 4294967295  # as in `re`
_PLAIN_ALTERNATIVES = re.compile(r"[^\\.^$*+?{}\[\]()]*\|[^\\.^$*+?{}\[\]()]*(?=\)|\Z)")
_LITERAL_RUN = re.compile(r"[^\\.^$*+?{}\[\]|()]+")
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
        self._cursor = Cursor(pattern)
        self._characters = Characters(self._cursor, ecma=dialect is Dialect.ECMA)
        self._flags = int(flags)
        self._ecma = dialect is Dialect.ECMA
        self._depth = 0
        self._names: set[str] = set()
        self._groups = 0
        if self._flags & ~_KNOWN_FLAGS:
            self._cursor.fail(
                f"flags {re.RegexFlag(self._flags & ~_KNOWN_FLAGS)!r} are not supported",
                0,
                UnsupportedPattern,
            )

    def parse(self) -> Tree:
        tree = self._alternatives(self._flags)
        if self._cursor.at < len(self._cursor.pattern):
            self._cursor.fail("unbalanced parenthesis", self._cursor.at)
        return tree

    # -- structure -------------------------------------------------------------------------------------------

    def _alternatives(self, flags: int) -> Tree:
        if not flags & (_IGNORECASE | _VERBOSE):
            words = _PLAIN_ALTERNATIVES.match(self._cursor.pattern, self._cursor.at)
            if words:  # thousands of names, in one step
                self._cursor.at = words.end()
                return self._words(words.group().split("|"))
        options: list[Tree] = []
        while True:
            option, flags = self._series(flags)
            options.append(option)
            if not self._cursor.take("|"):
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
        pattern = self._cursor.pattern
        plain_text = not flags & (_IGNORECASE | _VERBOSE)
        while self._cursor.at < len(pattern) and pattern[self._cursor.at] not in "|)":
            if plain_text and (text := _LITERAL_RUN.match(pattern, self._cursor.at)):
                self._cursor.at = text.end()
                if self._cursor.peek() in ("*", "+", "?", "{") or self._cursor.peek(3) == "(?#":
                    self._cursor.at -= 1  # a repetition belongs to the last character only
                if self._cursor.at > text.start():
                    parts.append(self._text(pattern[text.start() : self._cursor.at]))
                    continue
            if flags & _VERBOSE and self._skip_verbose():
                continue
            start = self._cursor.at
            if pattern[start] == "(" and self._cursor.take("(?"):
                changed = self._global_flags(start, flags)
                if changed is not None:
                    flags = changed
                    plain_text = not flags & (_IGNORECASE | _VERBOSE)
                    continue
                self._cursor.at = start
            part = self._part(flags)
            if part is not None:
                parts.append(self._repeated(part, flags, start))
        return self._joined(parts), flags

    def _skip_verbose(self) -> bool:
        if self._cursor.at < len(self._cursor.pattern) and self._cursor.peek() in " \t\n\r\v\f":
            self._cursor.at += 1
            return True
        if self._cursor.take("#"):
            end = self._cursor.pattern.find("\n", self._cursor.at)
            self._cursor.at = len(self._cursor.pattern) if end < 0 else end + 1
            return True
        return False

    def _skip_unread(self, flags: int) -> None:
        """Go past comments, and past what the VERBOSE flag says is not part of the pattern."""
        while True:
            if not self._ecma and self._cursor.peek(3) == "(?#":
                start = self._cursor.at
                self._cursor.at += 3
                self._cursor.until(")", start, "comment")
            elif not (flags & _VERBOSE and self._skip_verbose()):
                return

    def _words(self, texts: list[str]) -> int:
        if self._letters is not self._expressions:
            return self._expressions.choice(map(self._text, texts))
        try:
            return self._expressions.words({text.encode(): EMPTY for text in texts})
        except UnicodeEncodeError:
            return self._expressions.choice(map(self._text, texts))

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
        self._skip_unread(flags)
        here = self._cursor.at
        bounds = self._bounds()
        if bounds is None:
            return part
        if isinstance(part, Anchor) and self._cursor.pattern[start] != "(":
            self._cursor.fail("nothing to repeat", here)
        if self._cursor.take("+"):
            self._cursor.fail("possessive repetition is not regular", here, UnsupportedPattern)
        self._cursor.take("?")
        self._skip_unread(flags)
        again = self._cursor.at
        if self._bounds() is not None:
            self._cursor.fail("multiple repeat", again)
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
            self._cursor.fail(
                "a repetition of a group with an anchor or lookahead in it is not supported",
                start,
                UnsupportedPattern,
            )
        return EMPTY

    def _bounds(self) -> tuple[int, int] | None:
        """The repetition that stands here, or None (a `{` that does not count is text)."""
        sign = self._cursor.peek()
        if sign in _SIGNS:
            self._cursor.at += 1
            return _SIGNS[sign]
        counted = _COUNTS.match(self._cursor.pattern, self._cursor.at) if sign == "{" else None
        if counted is None or counted.group() in ("{}",) or (self._ecma and not counted[1]):
            return None
        try:
            least = int(counted[1] or 0)
            most = (int(counted[3]) if counted[3] else ENDLESS) if counted[2] else least
        except ValueError:  # more digits than Python reads
            least = most = _MOST_REPETITIONS
        if max(least, most) >= _MOST_REPETITIONS:
            self._cursor.fail("the repetition number is too large", self._cursor.at)
        if most != ENDLESS and least > most:
            self._cursor.fail("min repeat greater than max repeat", self._cursor.at)
        self._cursor.at = counted.end()
        return least, most

    def _part(self, flags: int) -> Tree | None:
        """One part without its repetition; None for a comment."""
        start = self._cursor.at
        character = self._cursor.peek()
        self._cursor.at += 1
        if character == "(":
            return self._group(start, flags)
        if character == "[":
            return self._letters.character(self._characters.set(start, flags))
        if character == "\\":
            return self._escape(start, flags)
        if character == ".":
            if flags & _DOTALL:
                return self._letters.any_character
            ends = _ECMA_LINE_END if self._ecma else ((0x0A, 0x0A),)
            return self._letters.character(complement(ends))
        if character in "^$":
            return self._line_anchor(character, start, flags)
        if character in "*+?":
            self._cursor.fail("nothing to repeat", start)
        if character == "{":
            self._cursor.at = start
            if self._bounds() is not None:
                self._cursor.fail("nothing to repeat", start)
            self._cursor.at = start + 1
        return self._character(((ord(character), ord(character)),), flags)

    def _line_anchor(self, character: str, start: int, flags: int) -> Anchor:
        if flags & _MULTILINE:
            self._cursor.fail(
                f"{character!r} at line ends (re.MULTILINE) is not supported", start, UnsupportedPattern
            )
        if character == "^":
            return Anchor(Place.START)
        return Anchor(Place.END if self._ecma else Place.LAST_LINE_END)

    def _character(self, ranges: Ranges, flags: int) -> int:
        if flags & _IGNORECASE:
            ranges = codepoints.ignore_case(ranges, ascii_only=bool(flags & _ASCII))
        return self._letters.character(ranges)

    # -- groups ----------------------------------------------------------------------------------------------

    def _global_flags(self, start: int, flags: int) -> int | None:
        """The flags after `(?flags)`, which must stand at the very start; None when this is another kind of
        group.
        """
        letters = re.compile(r"([a-zA-Z]+)\)").match(self._cursor.pattern, self._cursor.at)
        if letters is None or self._ecma:
            return None
        on = self._flag_letters(letters[1], start)
        if start != 0:
            self._cursor.fail("global flags not at the start of the expression", start)
        self._cursor.at = letters.end()
        return self._with_flags(flags, on, 0, start)

    def _flag_letters(self, letters: str, start: int) -> int:
        flags = 0
        for letter in letters:
            if letter not in _FLAGS:
                self._cursor.fail("unknown flag", start)
            if letter == "L":
                self._cursor.fail("the L flag needs a bytes pattern", start)
            flags |= _FLAGS[letter]
        return flags

    def _with_flags(self, flags: int, on: int, off: int, start: int) -> int:
        if on & _ASCII and (on & _UNICODE or (start == 0 and flags & _UNICODE)):
            self._cursor.fail("flags 'a' and 'u' are incompatible", start)
        if on & (_ASCII | _UNICODE):
            flags &= ~(_ASCII | _UNICODE)
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
        if not self._cursor.take("?"):
            self._groups += 1
            return self._inside(start, flags)
        if self._cursor.take("#") and not self._ecma:
            self._cursor.until(")", start, "comment")
            return None
        if self._cursor.take(":"):
            return self._inside(start, flags)
        if self._cursor.peek() in ("=", "!"):
            negative = self._cursor.peek() == "!"
            self._cursor.at += 1
            return Lookahead(self._inside(start, flags), negative, start)
        if self._cursor.peek(2) in ("<=", "<!"):
            self._cursor.fail("lookbehind is not supported", start, UnsupportedPattern)
        if self._cursor.take("P<") or (self._ecma and self._cursor.take("<")):
            name = self._cursor.until(">", start, "name")
            if not name.isidentifier():
                self._cursor.fail(f"bad character in group name {name!r}", start)
            if name in self._names:
                self._cursor.fail(f"redefinition of group name {name!r}", start)
            self._names.add(name)
            self._groups += 1
            return self._inside(start, flags)
        if self._cursor.peek(2) == "P=":
            self._cursor.fail("backreferences are not regular", start, UnsupportedPattern)
        if self._cursor.peek() == ">":
            self._cursor.fail("atomic groups are not regular", start, UnsupportedPattern)
        if self._cursor.peek() == "(":
            self._cursor.fail("conditional groups are not regular", start, UnsupportedPattern)
        return self._inside(start, self._scoped_flags(start, flags))

    def _scoped_flags(self, start: int, flags: int) -> int:
        letters = re.compile(r"([a-zA-Z]*)(?:-([a-zA-Z]+))?:").match(self._cursor.pattern, self._cursor.at)
        if letters is None or self._ecma:
            self._cursor.fail("unknown extension", start)
        on, off = self._flag_letters(letters[1], start), self._flag_letters(letters[2] or "", start)
        if off & (_ASCII | _UNICODE):
            self._cursor.fail("bad inline flags: cannot turn off flags 'a' and 'u'", start)
        if on & off:
            self._cursor.fail("bad inline flags: flag turned on and off", start)
        self._cursor.at = letters.end()
        return self._with_flags(flags, on, off, -1)

    def _inside(self, start: int, flags: int) -> Tree:
        tree = self._alternatives(flags)
        if not self._cursor.take(")"):
            self._cursor.fail("missing ), unterminated subpattern", start)
        return tree

    def _escape(self, start: int, flags: int) -> Tree:
        letter = self._cursor.peek()
        if letter == "":
            self._cursor.fail("bad escape (end of pattern)", start)
        if letter in "bB":
            self._cursor.fail(f"\\{letter} (word boundary) is not supported", start, UnsupportedPattern)
        if letter in "AZ" and not self._ecma:
            self._cursor.at += 1
            return Anchor(Place.START if letter == "A" else Place.END)
        if letter in "123456789" and not re.compile(r"[0-7]{3}").match(self._cursor.pattern, self._cursor.at):
            self._cursor.fail("backreferences are not regular", start, UnsupportedPattern)
        if letter == "k" and self._ecma:
            self._cursor.fail("backreferences are not regular", start, UnsupportedPattern)
        category = self._characters.category(flags)
        if category is not None:
            return self._letters.character(category)
        point = self._characters.escaped_point(start, in_set=False)
        return self._character(((point, point),), flags)
