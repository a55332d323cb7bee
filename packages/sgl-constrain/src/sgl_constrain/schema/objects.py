# SPDX-License-Identifier: Apache-2.0
"""Conditions on objects -> expressions: the named keys, each once, in their order or in any, and the other
keys.

What may come next is a table of keys, made when the text gets there: an expression for each point an object
can be at. Whether an object can be finished at all is asked of a plain chain of rules with the same values
(the witness). A key is written in one way only (see `strings`), so a named key cannot come back under another
spelling.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, cast

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL
from sgl_constrain.schema.sets import ANYTHING, NEVER, Objects, Term, meet
from sgl_constrain.schema.strings import escape

if TYPE_CHECKING:
    from sgl_constrain.schema.writing import Writer

_MOST_PATTERNS = 6  # patterns for keys that may overlap
_MOST_COUNTED = 20_000  # keys times counts, for min- and maxProperties


@dataclass(frozen=True)
class _Member:
    key: bytes  # as written, with its first quote and without its last
    value: int
    required: bool


def write_object(writer: Writer, o: Objects) -> int:
    names = [term for term in o.names if term]
    named = dict(o.named)
    for key in sorted(o.required - named.keys()):
        named[key] = o.unnamed(key, writer.patterns.matches)
    if any(named[key] == NEVER or not writer.allows_key(names, key) for key in o.required):
        return FAIL
    members = [
        _Member(b'"' + escape(key), writer.value(term), key in o.required)
        for key, term in named.items()
        if term != NEVER and writer.allows_key(names, key)
    ]
    other = writer.expressions.rule()
    writer.expressions.define(other, writer.expressions.choice(_others(writer, o, names, list(named))))
    return _Object(writer, o, members, other).write()


class _Object:
    """One object being written. Counts stop at `cap`, beyond which they make no difference."""

    def __init__(self, writer: Writer, o: Objects, members: list[_Member], other: int) -> None:
        self._writer = writer
        self._e = writer.expressions
        self._layout = writer.layout
        self._o = o
        self._members = members
        self._other = other
        self._cap = max(o.low, 0 if o.high is None else o.high + 1, 1)
        if self._cap * (len(members) + 1) > _MOST_COUNTED:
            raise GrammarTooLarge("minProperties or maxProperties is too large here", limit="expressions")
        self._quote = self._e.sequence(self._e.literal('"'), self._layout.colon)

    def write(self) -> int:
        e = self._e
        self._witness = self._chain()
        make = self._in_any_order if self._writer.any_order else self._in_order
        self._after = e.source(make, witness=lambda _: self._witness[0][0])
        return e.sequence(self._layout.open_object, self._after((0, 0)), self._layout.close_object)

    def _chain(self) -> list[list[int]]:
        """rules[i][c]: the rest of an object from member i on, after c keys."""
        e = self._e
        rules = [[e.rule() for _ in range(self._cap + 1)] for _ in range(len(self._members) + 1)]
        for count, rule in enumerate(rules[-1]):
            e.define(rule, self._rest(count))
        for i, member in enumerate(self._members):
            for count, rule in enumerate(rules[i]):
                taken = (
                    e.sequence(member.value, rules[i + 1][self._next(count)]) if self._room(count) else FAIL
                )
                e.define(rule, taken if member.required else e.choice([taken, rules[i + 1][count]]))
        return rules

    def _next(self, count: int) -> int:
        return min(count + 1, self._cap)

    def _room(self, count: int) -> bool:
        return self._o.high is None or count < self._o.high

    def _follow(self, member: _Member, after: tuple[int, int]) -> int:
        return self._e.sequence(self._quote, member.value, self._after(after))

    def _in_order(self, state: Hashable) -> int:
        """What may come after member i - 1 and `count` keys in all."""
        i, count = cast(tuple[int, int], state)
        e, dead = self._e, self._e.dead
        keys: dict[bytes, int] = {}
        rest = FAIL
        for j in range(i, len(self._members) + 1):
            if j == len(self._members):
                rest = self._rest(count)
                break
            member = self._members[j]
            following = self._witness[j + 1][self._next(count)]
            if self._room(count) and member.value not in dead and following not in dead:
                keys[member.key] = self._follow(member, (j + 1, self._next(count)))
            if member.required:
                break
        return e.choice([e.sequence(self._layout.comma if count else EMPTY, e.words(keys)), rest])

    def _in_any_order(self, state: Hashable) -> int:
        """What may come after the members in the bit set `used`, and `count` keys in all."""
        used, count = cast(tuple[int, int], state)
        e, o, dead = self._e, self._o, self._e.dead
        unused = [(i, m) for i, m in enumerate(self._members) if not used >> i & 1 and m.value not in dead]
        needed = sum(member.required for _, member in unused)
        room = None if o.high is None else o.high - count
        options: list[int] = []
        if room is None or room > 0:
            spare = room is None or room > needed
            keys = {
                member.key: self._follow(member, (used | 1 << i, self._next(count)))
                for i, member in unused
                if member.required or spare
            }
            options.append(e.words(keys))
            if spare and self._other not in dead:
                options.append(e.sequence(self._other, self._after((used, self._next(count)))))
        comma = self._layout.comma if count else EMPTY
        may_end = EMPTY if not needed and count >= o.low else FAIL
        return e.choice([e.sequence(comma, e.choice(options)), may_end])

    def _rest(self, count: int) -> int:
        """Keys without a name of their own, after `count` others."""
        e, o, comma = self._e, self._o, self._layout.comma
        other = FAIL if self._other in e.dead else self._other
        least = max(o.low - count, 0)
        most = ENDLESS if o.high is None else o.high - count
        if most != ENDLESS and most < least:
            return FAIL
        if least > 1 and e.body_of(self._other) != FAIL:
            self._writer.refuse(
                "minProperties", "keys without a name of their own could repeat and then count only once"
            )
            least = 1
        if count:
            return e.repeat(e.sequence(comma, other), least, most)
        more = e.repeat(e.sequence(comma, other), 0, most if most <= 0 else most - 1)
        some = e.sequence(other, more) if most else FAIL
        return some if least else e.choice([some, EMPTY])


def _others(writer: Writer, o: Objects, names: list[Term], named: list[str]) -> Iterator[int]:
    """Key and value of keys without a name, for each way in which a key can match the patterns."""
    e = writer.expressions
    patterns = list(dict.fromkeys(pattern for layer in o.layers for pattern, _ in layer.patterns))
    if len(patterns) > _MOST_PATTERNS:
        raise GrammarTooLarge(
            f"more than {_MOST_PATTERNS} patterns for the keys of one object", limit="expressions"
        )
    content = writer.key(names, named)
    for matching in product((True, False), repeat=len(patterns)):
        found = dict(zip(patterns, matching, strict=True))
        term = ANYTHING
        for layer in o.layers:
            wanted = [value for pattern, value in layer.patterns if found[pattern]]
            for value in wanted or [layer.fallback]:
                term = meet(term, value)
        if term == NEVER:
            continue
        key = content
        for pattern, matches in found.items():
            search = writer.patterns.search(pattern)
            key = e.both(key, search) if matches else e.without(key, search)
        quote = e.literal('"')
        yield e.sequence(quote, key, quote, writer.layout.colon, writer.value(term))
