# SPDX-License-Identifier: Apache-2.0
"""Keywords for arrays. What keywords looked at (`evaluated`) is kept only in documents where
`unevaluatedItems` or `unevaluatedProperties` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sgl_constrain.schema.conditions import Arrays, Contains
from sgl_constrain.schema.sets import Values
from sgl_constrain.schema.terms import ANYTHING, Term

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader


def _arrays(reader: Reader, values: Values, condition: Arrays) -> Values:
    if condition.annotated and not reader.document.unevaluated:
        condition = condition._replace(evaluated=0, evaluated_kinds=frozenset())
    return values.if_array(condition)


def _prefix(reader: Reader, number: int, schema: Mapping[str, Any], keyword: str) -> tuple[Term, ...]:
    if not isinstance(schema[keyword], list):
        raise reader.wrong(number, keyword, "a list of schemas")
    return tuple(
        reader.term(reader.document.at(number, f"{keyword}/{i}")) for i in range(len(schema[keyword]))
    )


def prefix_items(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    prefix = _prefix(reader, number, schema, "prefixItems")
    return _arrays(reader, values, Arrays(prefix, evaluated=len(prefix)))


def items(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if isinstance(schema["items"], list):  # the older spelling of prefixItems
        prefix = _prefix(reader, number, schema, "items")
        if "additionalItems" not in schema:
            return _arrays(reader, values, Arrays(prefix, evaluated=len(prefix)))
        rest = reader.term(reader.document.at(number, "additionalItems"))
        return _arrays(reader, values, Arrays(prefix, rest, evaluated=None))
    rest = reader.term(reader.document.at(number, "items"))
    length = len(schema["prefixItems"]) if "prefixItems" in schema else 0
    return _arrays(reader, values, Arrays((ANYTHING,) * length, rest, evaluated=None))


def min_items(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _arrays(reader, values, Arrays(low=reader.count(number, schema, "minItems")))


def max_items(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _arrays(reader, values, Arrays(high=reader.count(number, schema, "maxItems")))


def contains(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    low = reader.count(number, schema, "minContains") if "minContains" in schema else 1
    high = reader.count(number, schema, "maxContains") if "maxContains" in schema else None
    term = reader.term(reader.document.at(number, "contains"))
    looked_at = frozenset((term,)) if reader.document.contains_counts else frozenset()
    condition = Arrays(contains=frozenset((Contains(term, low, high),)), evaluated_kinds=looked_at)
    return _arrays(reader, values, condition)


def unique(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if not isinstance(schema["uniqueItems"], bool):
        raise reader.wrong(number, "uniqueItems", "a boolean")
    return _arrays(reader, values, Arrays(unique=True)) if schema["uniqueItems"] else values


def unevaluated_items(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    """Every item that no other keyword looked at; `contains` looked at those that satisfy it."""
    reader.check_unevaluated(number, "unevaluatedItems")
    rest = reader.term(reader.document.at(number, "unevaluatedItems"))
    arrays: list[Arrays] = []
    for array in values.arrays:
        if array.evaluated is None:
            arrays.append(array)
            continue
        wanted = reader.either((rest, *sorted(array.evaluated_kinds, key=sorted)), reader.path(number))
        met = array.meet(Arrays((ANYTHING,) * array.evaluated, wanted, evaluated=None))
        if met is not None:
            arrays.append(met)
    return values._replace(arrays=tuple(dict.fromkeys(arrays)))
