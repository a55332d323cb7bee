# SPDX-License-Identifier: Apache-2.0
"""The ways in which one key and its value can stand in an object: what the value must be, and which of the
object's conditions on some key (`Some`) it then meets.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from sgl_constrain.errors import GrammarTooLarge
from sgl_constrain.expression import FAIL
from sgl_constrain.schema.conditions import Objects, Some
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term, meet

if TYPE_CHECKING:
    from sgl_constrain.schema.writing import Writer

_MOST_PATTERNS = 6  # patterns for keys that may overlap
_MOST_CONDITIONS = 4  # of the kind `Some`, in one object


class Way(NamedTuple):
    value: int  # the value; for a key without a name of its own, key and value
    met: int  # conditions, a bit each, that hold from now on
    last: int  # conditions that hold as long as no other key of their kind comes


class OtherWay(NamedTuple):
    way: Way
    kind: int  # the conditions whose kind of key this is, and that ask for its value


def conditions(o: Objects) -> list[Some]:
    """The conditions of an object, in the order of their bits."""
    if len(o.some) > _MOST_CONDITIONS:
        message = f"more than {_MOST_CONDITIONS} conditions on some key of one object"
        raise GrammarTooLarge(message, limit="expressions")
    return sorted(o.some, key=repr)


def ways(writer: Writer, o: Objects, key: str, term: Term) -> tuple[Way, ...]:
    """A key with a name of its own comes once, so what it meets stays met."""
    return tuple(_named(writer, o, key, term)) if o.some else (Way(writer.value(term), 0, 0),)


def _named(writer: Writer, o: Objects, key: str, term: Term) -> Iterator[Way]:
    met = 0
    asking: list[tuple[int, Term]] = []
    for bit, some in enumerate(conditions(o)):
        of_kind = all(writer.patterns.matches(pattern, key) == holds for pattern, holds in some.patterns)
        if key in some.excluded or not of_kind or (some.name and not writer.allows_key([some.name], key)):
            continue
        if some.term:
            asking.append((1 << bit, some.term))
        else:
            met |= 1 << bit
    for chosen, wanted in _subsets(asking):
        value = meet(term, wanted)
        if value != NEVER:
            yield Way(writer.value(value), met | chosen, 0)


def _subsets(asking: list[tuple[int, Term]]) -> Iterator[tuple[int, Term]]:
    for chosen in product((False, True), repeat=len(asking)):
        bits, term = 0, ANYTHING
        for (bit, wanted), is_chosen in zip(asking, chosen, strict=True):
            if is_chosen:
                bits, term = bits | bit, meet(term, wanted)
        yield bits, term


class OtherKeys:
    """Keys without a name of their own. `any` is one of them and its value, whatever it meets: a
    rule, or FAIL."""

    def __init__(self, writer: Writer, o: Objects, names: list[Term], named: list[str]) -> None:
        self._writer = writer
        self._o = o
        self._conditions = conditions(o)
        self.ways: list[OtherWay] = []
        if not names and not o.some and not any(layer.patterns for layer in o.layers):
            self.any = self._all_alike(named)
            return
        found: dict[tuple[int, int, int], list[int]] = {}
        for key_and_value, met, last, kind in self._all(names, named):
            found.setdefault((met, last, kind), []).append(key_and_value)
        e = writer.expressions
        for (met, last, kind), options in found.items():
            rule = e.rule()
            e.define(rule, e.choice(options))
            self.ways.append(OtherWay(Way(rule, met, last), kind))
        if len(self.ways) <= 1:
            self.any = self.ways[0].way.value if self.ways else FAIL
        else:
            self.any = e.rule()
            e.define(self.any, e.choice(other.way.value for other in self.ways))

    def _all_alike(self, named: list[str]) -> int:
        """Where nothing is asked of keys, nor by them."""
        e, writer = self._writer.expressions, self._writer
        term = self._term({})
        if term == NEVER:
            return FAIL
        quote = e.literal('"')
        whole = e.sequence(quote, writer.key((), named), quote, writer.layout.colon, writer.value(term))
        if whole != FAIL and not writer.late:
            rule = e.rule()
            e.define(rule, whole)
            whole = rule
        if whole != FAIL:
            self.ways.append(OtherWay(Way(whole, 0, 0), 0))
        return whole

    def _all(self, names: list[Term], named: list[str]) -> Iterator[tuple[int, int, int, int]]:
        """(key and value, met, last, kind) for each way in which a key can match the patterns."""
        e, writer = self._writer.expressions, self._writer
        patterns = list(dict.fromkeys(pattern for layer in self._o.layers for pattern, _ in layer.patterns))
        patterns += {p: None for some in self._conditions for p, _ in some.patterns if p not in patterns}
        if len(patterns) > _MOST_PATTERNS:
            message = f"more than {_MOST_PATTERNS} patterns for the keys of one object"
            raise GrammarTooLarge(message, limit="expressions")
        # Of a key of any kind: not needed where none may stand. What is asked of keys is read in any case.
        content = writer.key(names, named) if names else None
        for matching in product((True, False), repeat=len(patterns)):
            found = dict(zip(patterns, matching, strict=True))
            term = self._term(found)
            if term == NEVER:
                continue
            key = content = writer.key(names, named) if content is None else content
            for pattern, matches in found.items():
                search = writer.patterns.search(pattern)
                key = e.both(key, search) if matches else e.without(key, search)
            if key != FAIL:
                yield from self._of_kind(found, key, term)

    def _term(self, found: dict[str, bool]) -> Term:
        """What the layers say of a key that matches the patterns so."""
        term = ANYTHING
        for layer in self._o.layers:
            wanted = [value for pattern, value in layer.patterns if found[pattern]]
            for value in wanted or [layer.fallback]:
                term = meet(term, value)
        return term

    def _of_kind(self, found: dict[str, bool], key: int, term: Term) -> Iterator[tuple[int, int, int, int]]:
        e, writer = self._writer.expressions, self._writer
        met = 0
        asking: list[tuple[int, Term]] = []  # of the value
        naming: list[tuple[int, Term]] = []  # of the key
        for bit, some in enumerate(self._conditions):
            if all(found[pattern] == holds for pattern, holds in some.patterns):
                if some.name:
                    naming.append((1 << bit, some.name))
                elif some.term:
                    asking.append((1 << bit, some.term))
                else:
                    met |= 1 << bit
        if len(asking) > 1:
            keyword = self._conditions[asking[1][0].bit_length() - 1].keyword
            writer.refuse(keyword, "two conditions, each on some key of the same kind")
        kind = sum(bit for bit, _ in asking)
        quote = e.literal('"')
        for named, name in _subsets(naming):
            fitting = e.both(key, writer.key([name], ())) if name else key
            for last, wanted in _subsets(asking):
                value = meet(term, wanted)
                if value != NEVER and fitting != FAIL:
                    whole = e.sequence(quote, fitting, quote, writer.layout.colon, writer.value(value))
                    if whole != FAIL:
                        yield whole, met | named, last, kind
