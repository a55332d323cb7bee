# SPDX-License-Identifier: Apache-2.0
"""Conditions on objects -> expressions: the named keys, each once, in their order or in any, and the other
keys.

What may come next is a table of keys, made when the text gets there: an expression for each point an object
can be at. Where nothing is counted it can also be told once for all points (`Listed`). Whether an object can
be finished at all is asked of a plain chain of rules with the same values (the witness). A key is written in
one way only (see `strings`), so a named key cannot come back under another spelling.

Other keys may repeat, and then the last one counts. So where some key must have a value (`Some`), that is
asked of the last other key of its kind: every object can be written so, though not in every order.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from functools import cached_property, partial
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, cast

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import EMPTY, ENDLESS, FAIL, Listed
from sgl_constrain.schema.conditions import Objects
from sgl_constrain.schema.keys import OtherKeys, Way, ways
from sgl_constrain.schema.strings import escape
from sgl_constrain.schema.terms import NEVER

if TYPE_CHECKING:
    from sgl_constrain.schema.writing import Writer

_MOST_COUNTED = 20_000  # keys times counts times conditions met, for one object
_MOST_TOLD = 200  # keys of an object that is told as a list,
_MOST_NEXT = 32  # and of those that may come next


class _Member(NamedTuple):
    key: bytes  # as written, with its first quote and without its last
    required: bool
    ways: tuple[Way, ...]


class _State(NamedTuple):
    """A point at which an object can be. `place`: how many members lie behind, or the set of those used."""

    place: int
    keys: int  # so far, as far as it matters
    met: int  # the conditions (a bit each) that hold whatever comes
    last: int  # the conditions that hold unless another key of their kind comes


def write_object(writer: Writer, o: Objects) -> int:
    names = [term for term in o.names if term]
    named = dict(o.named)
    excluded = {key for some in o.some for key in some.excluded}
    for key in sorted((o.required | excluded) - named.keys()):
        named[key] = o.unnamed(key, writer.patterns.matches)
    allowed = {k: t for k, t in named.items() if t != NEVER and (not names or writer.allows_key(names, k))}
    if not o.required <= allowed.keys():
        return FAIL
    members = [
        _Member(b'"' + escape(key), key in o.required, ways(writer, o, key, term))
        for key, term in allowed.items()
    ]
    if not o.some and any(required and ways[0].value == FAIL for _, required, ways in members):
        return FAIL
    return _Object(writer, o, members, partial(OtherKeys, writer, o, names, list(named))).write()


class _Object:
    """One object being written. Counts stop at `cap`, beyond which they make no difference."""

    def __init__(
        self, writer: Writer, o: Objects, members: list[_Member], others: Callable[[], OtherKeys]
    ) -> None:
        self._writer = writer
        self._e = writer.expressions
        self._layout = writer.layout
        self._o = o
        self._members = members
        self._make_others = others
        if not writer.late:
            self._others = others()
        self._all_met = (1 << len(o.some)) - 1
        self._cap = max(o.low, 0 if o.high is None else o.high + 1, 1)
        if self._cap * (len(members) + 1) << 2 * len(o.some) > _MOST_COUNTED:
            raise GrammarTooLarge("counting the keys of an object takes too much here", limit="expressions")
        self._quote = self._e.sequence(self._e.literal('"'), self._layout.colon)
        self._witnesses: dict[_State, int] = {}
        self._witness: int | None = None
        self._followed: dict[tuple[int, _State], int] = {}

    def write(self) -> int:
        start = _State(0, 0, 0, 0)
        counts = self._o.low or self._o.high is not None or self._o.some
        if not self._members and not counts:
            return self._e.sequence(self._layout.open_object, self._in_order(start))
        if counts:
            self._witness = self._chain(start)
        make = self._in_any_order if self._writer.any_order else self._in_order
        told = not counts and not self._writer.any_order and self._has_few_next()
        self._after = self._e.source(make, witness=self._finished, tell=self._tell if told else None)
        return self._e.sequence(self._layout.open_object, self._after(start))

    @cached_property
    def _others(self) -> OtherKeys:
        """Of an object that is written late, when they are asked for."""
        return self._make_others()

    # -- steps -----------------------------------------------------------------------------------------------

    def _taken(self, state: _State, place: int, way: Way, kind: int = 0) -> _State:
        met = state.met | way.met
        last = (state.last & ~kind | way.last) & ~met
        return _State(place, min(state.keys + 1, self._cap), met, last)

    def _room(self, state: _State) -> bool:
        return self._o.high is None or state.keys < self._o.high

    def _is_met(self, state: _State) -> bool:
        return state.met | state.last == self._all_met

    def _follow(self, way: Way, after: _State) -> int:
        known = self._followed.get((way.value, after))
        if known is None:
            known = self._e.sequence(self._quote, way.value, self._after(after))
            self._followed[way.value, after] = known
        return known

    def _comma(self, state: _State) -> int:
        return self._layout.comma if state.keys else EMPTY

    def _close(self, state: _State) -> int:
        """The end. In `{}` there is one place for whitespace, after the first brace."""
        return self._layout.close_object if state.keys else self._e.literal("}")

    # -- can it be finished? ---------------------------------------------------------------------------------

    def _finished(self, _: Hashable) -> int:
        """The witness of all points; an object that is written when a text gets there needs none."""
        if self._witness is None:
            self._witness = self._all_required()
        return self._witness

    def _all_required(self) -> int:
        """Where nothing is counted: each required member needs a value. What may be there is named too, since
        a value is known to be dead only where it can be reached from the root."""
        e = self._e
        values = [(m, e.choice([w.value for w in m.ways])) for m in self._members]
        parts = [value if m.required else e.optional(value) for m, value in values]
        return e.sequence(*parts, e.optional(self._others.any))

    def _is_lost(self, state: _State) -> bool:
        """Can the object not be finished from here? Without a rule of its own as little as from its start."""
        return self._witnesses.get(state, EMPTY) in self._e.dead

    def _chain(self, start: _State) -> int:
        """A rule for each state that can be met in order: the rest of the object from there."""
        e, rules = self._e, self._witnesses
        pending: list[_State] = []

        def rule(state: _State) -> int:
            if state not in rules:
                rules[state] = e.rule()
                pending.append(state)
            return rules[state]

        first = rule(start)
        while pending:
            state = pending.pop()
            if state.place == len(self._members):
                options = [e.sequence(more, rule(after)) for more, after in self._one_more(state)]
                more, may_end = self._rest(state)
                e.define(rules[state], e.choice([*options, more, EMPTY if may_end else FAIL]))
                continue
            member, place = self._members[state.place], state.place + 1
            options = [] if member.required else [rule(state._replace(place=place))]
            if self._room(state):
                options += (e.sequence(w.value, rule(self._taken(state, place, w))) for w in member.ways)
            e.define(rules[state], e.choice(options))
        return first

    def _least(self, used: int, missing: int) -> float:
        """How many more keys it takes at least, when `missing` conditions are to be met."""
        dead = self._e.dead
        least: dict[int, float] = {missing: 0}
        for i, member in enumerate(self._members):
            if used >> i & 1 or not (member.required or missing):
                continue
            before, least = least, {} if member.required else dict(least)
            for left, keys in before.items():
                for way in member.ways:
                    if way.value not in dead:
                        now = left & ~(way.met | way.last)
                        least[now] = min(least.get(now, keys + 1), keys + 1)
        for _ in range(missing.bit_count()):
            for left, keys in list(least.items()):
                for other in self._others.ways:
                    if other.way.value not in dead:
                        now = left & ~(other.way.met | other.way.last)
                        least[now] = min(least.get(now, keys + 1), keys + 1)
        return least.get(0, float("inf"))

    def _can_finish(self, state: _State) -> bool:
        room = float("inf") if self._o.high is None else self._o.high - state.keys
        return self._least(state.place, self._all_met & ~(state.met | state.last)) <= room

    # -- in the order of the schema --------------------------------------------------------------------------

    def _in_order(self, key: Hashable) -> int:
        """What may come after the members that lie behind."""
        state = cast(_State, key)
        e, dead = self._e, self._e.dead
        keys: dict[bytes, int] = {}
        for place in range(state.place, len(self._members)):
            member = self._members[place]
            following = []
            for way in member.ways if self._room(state) else ():
                after = self._taken(state, place + 1, way)
                if way.value not in dead and not self._is_lost(after):
                    following.append(self._follow(way, after))
            keys[member.key] = e.choice(following)
            if member.required:
                return e.sequence(self._comma(state), e.words(keys))
        options = [e.sequence(self._comma(state), e.words(keys))]
        state = state._replace(place=len(self._members))
        for more, after in self._one_more(state):
            if not self._is_lost(after):
                options.append(e.sequence(more, self._after(after)))
        more, may_end = self._rest(state)
        options.append(e.sequence(more, self._layout.close_object))
        options.append(self._close(state) if may_end else FAIL)
        return e.choice(options)

    def _tell(self, key: Hashable) -> Listed | None:
        """The object from its start, where nothing is counted."""
        members = [(m.key + b'"', m.ways[0].value, m.required) for m in self._members]
        if cast(_State, key).keys or any(value == FAIL or value in self._e.dead for _, value, _ in members):
            return None
        first = self._e.reserve(lambda place: self._point(first, place), 2 + 3 * len(members))
        colon, comma, close = self._layout.colon, self._layout.comma, self._layout.close_object
        return Listed(first, colon, comma, close, self._e.literal("}"), self._may_have_others(), members)

    def _has_few_next(self) -> bool:
        ends = [place for place, member in enumerate(self._members) if member.required]
        steps = pairwise((-1, *ends, len(self._members)))
        return len(self._members) <= _MOST_TOLD and all(to - place <= _MOST_NEXT for place, to in steps)

    def _may_have_others(self) -> bool:
        if self._writer.late and "_others" not in self.__dict__:
            return self._writer.value(self._o.unnamed("", self._writer.patterns.matches)) != FAIL
        return self._others.any != FAIL and self._others.any not in self._e.dead

    def _point(self, first: int, place: int) -> int:
        """One of the reserved expressions of a `Listed`."""
        e, named = self._e, len(self._members)
        if place == 0:
            return self._others.any
        if place == 1:
            more = e.sequence(self._layout.comma, first, first + 1) if self._may_have_others() else FAIL
            return e.choice([self._layout.close_object, more])
        number, kind = divmod(place - 2, 3)
        member = self._members[number]
        if kind == 2:
            return self._after(_State(number + 1, 1, 0, 0))
        if kind == 1:
            return e.sequence(self._layout.colon, member.ways[0].value, first + place + 1)
        keys: dict[bytes, int] = {}
        for other in range(number, named):
            keys[self._members[other].key + b'"'] = first + 2 + 3 * other + 1
            if self._members[other].required:
                break
        return e.words(keys)

    def _one_more(self, state: _State) -> Iterator[tuple[int, _State]]:
        """Another key without a name of its own, where it matters which one comes last."""
        if self._o.some and self._room(state):
            for other in self._others.ways:
                if other.way.value not in self._e.dead:
                    after = self._taken(state, state.place, other.way, other.kind)
                    yield self._e.sequence(self._comma(state), other.way.value), after

    def _rest(self, state: _State) -> tuple[int, bool]:
        """All the keys without a name of their own, at least one, where it does not matter which; and may
        there be none?
        """
        e, o, comma = self._e, self._o, self._layout.comma
        other = FAIL if self._others.any in e.dead else self._others.any
        least = max(o.low - state.keys, 0)
        most = ENDLESS if o.high is None else o.high - state.keys
        if most != ENDLESS and most < least:
            return FAIL, False
        if least > 1 and self._others.ways:
            self._writer.refuse(
                "minProperties", "keys without a name of their own could repeat and then count only once"
            )
            least = 1
        may_end = least == 0 and self._is_met(state)
        if most == 0 or o.some:
            return FAIL, may_end
        some = max(least, 1)
        if state.keys:
            return e.repeat(e.sequence(comma, other), some, most), may_end
        more = e.repeat(e.sequence(comma, other), some - 1, most if most == ENDLESS else most - 1)
        return e.sequence(other, more), may_end

    # -- in any order ----------------------------------------------------------------------------------------

    def _in_any_order(self, key: Hashable) -> int:
        """What may come after the members in the bit set `place`."""
        state = cast(_State, key)
        e, dead = self._e, self._e.dead
        unused = [(i, member) for i, member in enumerate(self._members) if not state.place >> i & 1]
        options: list[int] = []
        if self._room(state):
            keys: dict[bytes, int] = {}
            for i, member in unused:
                steps = [(w, self._taken(state, state.place | 1 << i, w)) for w in member.ways]
                keys[member.key] = e.choice(
                    self._follow(w, after)
                    for w, after in steps
                    if w.value not in dead and self._can_finish(after)
                )
            options.append(e.words(keys))
            for other in self._others.ways:
                after = self._taken(state, state.place, other.way, other.kind)
                if other.way.value not in dead and self._can_finish(after):
                    options.append(e.sequence(other.way.value, self._after(after)))
        ends = not any(member.required for _, member in unused) and state.keys >= self._o.low
        may_end = self._close(state) if ends and self._is_met(state) else FAIL
        return e.choice([e.sequence(self._comma(state), e.choice(options)), may_end])
