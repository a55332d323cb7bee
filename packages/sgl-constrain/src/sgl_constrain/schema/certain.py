# SPDX-License-Identifier: Apache-2.0
"""Values of which it is certain, before they are written, that they can be written: those may be written when
a text gets there.

Everything is read at once, and what the writer could refuse, or what takes a search to tell whether there is
any, is written at once; so refusals still come before the first token. Whether there is any of the rest
depends on the terms that it is made of, and on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from sgl_constrain.schema.conditions import Arrays, Numbers, Objects, Strings
from sgl_constrain.schema.numbers import has_number
from sgl_constrain.schema.sets import Values
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term

MOST_NAMED = 1000  # keys of an object, items of a prefix


class Parts(NamedTuple):
    """The terms that a value is made of: there is one if there are some of each in `needed`."""

    needed: Sequence[Term]
    others: Sequence[Term]


def parts(values: Values) -> Sequence[Parts] | None:
    """What values are made of, of one kind or another; None if something else about them is not certain."""
    if not all(map(_is_plain_number, values.numbers)) or not all(map(_is_plain_string, values.strings)):
        return None
    if not all(map(_is_plain_array, values.arrays)) or not all(map(_is_plain_object, values.objects)):
        return None
    found = [parts_of_array(array) for array in values.arrays]
    found += [parts_of_object(o) for o in values.objects]
    if values.constants or values.numbers or values.strings:
        found.append(Parts((), ()))
    return found


def _is_plain_number(n: Numbers) -> bool:
    if n.multiples or n.not_multiples:
        return False
    return has_number(n.low, n.low_open, n.high, n.high_open, integer=n.integer)


def _is_plain_string(s: Strings) -> bool:
    if s.patterns or s.not_values:
        return False
    counted = s.low > 0 or s.high is not None
    if s.values is not None:
        return bool(s.values) and not counted and not s.formats
    return not s.formats or (not counted and len(s.formats) == 1 and all(holds for _, holds in s.formats))


def _is_plain_array(array: Arrays) -> bool:
    return not array.unique and not array.contains and len(array.prefix) <= MOST_NAMED


def _is_plain_object(o: Objects) -> bool:
    if o.some or o.low or o.high is not None or len(o.named) > MOST_NAMED or any(o.names):
        return False
    return o.required <= dict(o.named).keys() and not any(layer.patterns for layer in o.layers)


def parts_of_array(array: Arrays) -> Parts:
    places = array.prefix if array.high is None else array.prefix[: array.high]
    needed, others = list(places[: array.low]), list(places[array.low :])
    (needed if array.low > len(places) else others).append(array.rest)
    return Parts(needed, others)


def parts_of_object(o: Objects) -> Parts:
    needed = [term for key, term in o.named if key in o.required]
    others = [term for key, term in o.named if key not in o.required]
    return Parts(needed, [*others, o.unnamed("", lambda pattern, text: False)])


def certain(found: Mapping[Term, Sequence[Parts]]) -> set[Term]:
    """Those of the terms which have values whatever the terms that were not found have, and are made of
    nothing else, however deep.
    """
    above: dict[Term, list[Term]] = {}
    doubtful: list[Term] = []
    for term, alternatives in found.items():
        for part in _all(alternatives):
            if part in found:
                above.setdefault(part, []).append(term)
            elif part not in (ANYTHING, NEVER):
                doubtful.append(term)
    living = _living(found)
    doubtful += [term for term in found if term not in living]
    left = set(found)
    while doubtful:
        term = doubtful.pop()
        if term in left:
            left.discard(term)
            doubtful += above.get(term, ())
    return left


def _living(found: Mapping[Term, Sequence[Parts]]) -> set[Term]:
    """The terms that have a value of every kind, if those that were not found have one."""
    living: set[Term] = set()
    waiting = list(found)
    while True:
        still = [
            term
            for term in waiting
            if not found[term]
            or any(
                part == NEVER or (part in found and part not in living)
                for needed, _ in found[term]
                for part in needed
            )
        ]
        living.update(set(waiting).difference(still))
        if len(still) == len(waiting):
            return living
        waiting = still


def _all(alternatives: Sequence[Parts]) -> Iterator[Term]:
    for needed, others in alternatives:
        yield from needed
        yield from others
