# SPDX-License-Identifier: Apache-2.0
"""Where anchors and lookaheads hold: a pattern that contains them, placed in its text, becomes a plain
expression.

An anchor asks what stands beside it, not what it reads. So every part is read once for each surrounding it
can have (is there text before it? what comes after?), and answers with three things: whether it matches the
empty string there, whether it matches exactly a newline (Python's `$` also holds before a last newline), and
its other strings. A lookahead asks about everything up to the end of the text, so it can stand where the rest
of the pattern is at hand.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, Protocol

from sgl_constrain.codepoints import Ranges
from sgl_constrain.errors import GrammarTooLarge, UnsupportedPattern
from sgl_constrain.expression import (
    EMPTY,
    FAIL,
    Both,
    Character,
    Choice,
    Expressions,
    Repeat,
    Sequence,
    Without,
    Words,
)


class Letters(Protocol):
    """How the characters of a text are written. `Expressions` writes them as themselves."""

    any_character: int
    any_string: int

    def character(self, ranges: Ranges) -> int: ...

    def literal(self, text: str) -> int: ...


class Place(enum.Enum):
    START = "start of the text"
    END = "end of the text"
    LAST_LINE_END = "end of the text, or before the newline that ends it"


class Anchor(NamedTuple):
    place: Place


class Lookahead(NamedTuple):
    body: Tree
    negative: bool
    position: int  # in the pattern, for error messages


class Series(NamedTuple):
    parts: tuple[Tree, ...]


class Either(NamedTuple):
    options: tuple[Tree, ...]


# A number is an expression: a part without anchors, the same everywhere.
Tree = int | Anchor | Lookahead | Series | Either


class _After(enum.Enum):
    NOTHING = 0
    NEWLINE = 1  # exactly one newline
    MORE = 2


class _Strings(NamedTuple):
    empty: bool
    newline: bool  # always False while no `$` asks
    other: int


class Placement:
    """Reads trees as the whole text (`whole`) or as some part of it (`anywhere`)."""

    def __init__(
        self, expressions: Expressions, letters: Letters, pattern: str, *, newline_matters: bool
    ) -> None:
        self._expressions = expressions
        self._anything = letters.any_string
        self._pattern = pattern
        self._newline_matters = newline_matters
        self._newline = letters.literal("\n") if newline_matters else FAIL

    def whole(self, tree: Tree) -> int:
        """The texts that match from end to end."""
        if isinstance(tree, int):
            return tree
        return self._all(self._at(tree, True, _After.NOTHING), with_empty=True)

    def anywhere(self, tree: Tree) -> int:
        """The texts in which there is a match."""
        around = self._anything
        if isinstance(tree, int):
            return self._expressions.sequence(around, tree, around)
        if isinstance(tree, Either):
            return self._expressions.choice(self.anywhere(option) for option in tree.options)
        parts = tree.parts if isinstance(tree, Series) else (tree,)
        first, last = parts[0] == Anchor(Place.START), parts[-1] == Anchor(Place.END)
        inner = parts[first : len(parts) - last]
        plain = [part for part in inner if isinstance(part, int)]
        if len(plain) == len(inner):  # anchors at the ends only, as nearly always
            return self._expressions.sequence(EMPTY if first else around, *plain, EMPTY if last else around)
        return self.whole(Series((around, *parts, around)))

    def _all(self, strings: _Strings, *, with_empty: bool) -> int:
        options = [strings.other]
        if strings.newline:
            options.append(self._newline)
        if strings.empty and with_empty:
            options.append(EMPTY)
        return self._expressions.choice(options)

    def _at(self, tree: Tree, first: bool, after: _After) -> _Strings:
        """The strings of `tree` with nothing before it (`first`) or something, and with `after` after it."""
        match tree:
            case int():
                return self._plain(tree)
            case Anchor(place):
                holds = first if place is Place.START else after is _After.NOTHING
                return _Strings(
                    holds or (place is Place.LAST_LINE_END and after is _After.NEWLINE), False, FAIL
                )
            case Either(options):
                found = [self._at(option, first, after) for option in options]
                return _Strings(
                    any(s.empty for s in found),
                    any(s.newline for s in found),
                    self._expressions.choice(s.other for s in found),
                )
            case Series(parts):
                return self._series(parts, first, after)
            case Lookahead():
                return self._series((tree,), first, after)

    def _plain(self, expression: int) -> _Strings:
        empty = self._expressions.is_nullable(expression)
        other = self._expressions.nonempty(expression)
        newline = self._newline_matters and _matches_newline(self._expressions, expression)
        return _Strings(empty, newline, self._expressions.without(other, self._newline) if newline else other)

    def _series(self, parts: tuple[Tree, ...], first: bool, after: _After) -> _Strings:
        limit = self._expressions.limits.nesting
        if len(parts) > limit:
            raise GrammarTooLarge(f"more than {limit} anchors and lookaheads in a row", limit="nesting")
        known = {
            False: _Strings(True, False, FAIL),
            True: _Strings(True, False, FAIL),
        }  # of the parts from i on
        for i in reversed(range(len(parts))):
            known = {f: self._join(parts[i], known, f, after) for f in ((first, False) if i else (first,))}
        return known[first]

    def _join(self, head: Tree, tail: dict[bool, _Strings], first: bool, after: _After) -> _Strings:
        """`head` and then the tail, whose strings depend on whether the head was empty at the very start."""
        tail_first, tail_later = tail.get(first, tail[False]), tail[False]
        if isinstance(head, Lookahead):
            return self._look(head, tail_first, first, after)
        nothing = _Strings(False, False, FAIL)
        last = self._at(head, first, after) if tail_first.empty or tail_later.empty else nothing
        newline_after = _After.NEWLINE if after is _After.NOTHING else _After.MORE
        before_newline = (
            self._at(head, first, newline_after) if tail_first.newline or tail_later.newline else nothing
        )
        inner = (
            self._at(head, first, _After.MORE) if {tail_first.other, tail_later.other} != {FAIL} else nothing
        )
        other = [
            last.other if tail_later.empty else FAIL,
            tail_first.other if inner.empty else FAIL,
            self._expressions.sequence(self._all(inner, with_empty=False), tail_later.other),
        ]
        if tail_later.newline:
            other.append(
                self._expressions.sequence(self._all(before_newline, with_empty=False), self._newline)
            )
        return _Strings(
            last.empty and tail_first.empty,
            (last.newline and tail_later.empty) or (before_newline.empty and tail_first.newline),
            self._expressions.choice(other),
        )

    def _look(self, look: Lookahead, rest: _Strings, first: bool, after: _After) -> _Strings:
        if after is not _After.NOTHING:
            if rest == _Strings(False, False, FAIL):
                return rest
            kind = "negative lookahead" if look.negative else "lookahead"
            message = f"a {kind} inside a group that more of the pattern follows is not supported"
            raise UnsupportedPattern(message, pattern=self._pattern, position=look.position)
        expressions = self._expressions
        seen = self._beginning_with(look.body, first)
        keep = expressions.without if look.negative else expressions.both
        return _Strings(
            rest.empty and expressions.is_nullable(seen) != look.negative,
            rest.newline and _matches_newline(expressions, seen) != look.negative,
            keep(rest.other, seen),
        )

    def _beginning_with(self, body: Tree, first: bool) -> int:
        """The texts, up to their end, that begin with a match of `body`."""
        anything = self._anything
        if isinstance(body, int):
            return self._expressions.sequence(body, anything)
        if isinstance(body, Either):
            return self._expressions.choice(self._beginning_with(option, first) for option in body.options)
        parts = body.parts if isinstance(body, Series) else (body,)
        return self._all(self._series((*parts, anything), first, _After.NOTHING), with_empty=True)


def _matches_newline(expressions: Expressions, expression: int) -> bool:
    def matches(e: int) -> bool:
        return _matches_newline(expressions, e)

    match expressions.nodes[expression]:
        case Character(head):
            return any(edge.complete and edge.mask >> 10 & 1 for edge in expressions.heads.edges[head])
        case Words(table, low, high, _):
            words, follow = expressions.tables[table]
            return any(
                (words[i] == b"\n" and expressions.is_nullable(follow[i]))
                or (not words[i] and matches(follow[i]))
                for i in range(low, high)
            )
        case Sequence(parts):
            needed = [part for part in parts if not expressions.is_nullable(part)]
            return matches(needed[0]) if len(needed) == 1 else not needed and any(map(matches, parts))
        case Choice(options):
            return any(map(matches, options))
        case Repeat(body, least, _):
            return matches(body) and (least <= 1 or expressions.is_nullable(body))
        case Both(left, right):
            return matches(left) and matches(right)
        case Without(left, right):
            return matches(left) and not matches(right)
        case _:
            return False
