# SPDX-License-Identifier: Apache-2.0
"""Keywords for objects. What keywords looked at (`seen`) is kept only in documents where `unevaluatedItems`
or `unevaluatedProperties` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any

from sgl_constrain.schema.conditions import Layer, Objects
from sgl_constrain.schema.sets import NOTHING, Values
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term, meet

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader


def _objects(reader: Reader, values: Values, condition: Objects) -> Values:
    if condition.annotated and not reader.document.unevaluated:
        condition = condition._replace(seen=frozenset(), seen_patterns=frozenset(), seen_all=False)
    return values.if_object(condition, reader.patterns.matches)


def properties(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    """properties, patternProperties and additionalProperties, which depend on each other."""
    own = reader.mapping(number, schema, "properties") if "properties" in schema else {}
    by_pattern = reader.mapping(number, schema, "patternProperties") if "patternProperties" in schema else {}
    path = reader.path(number)
    patterns = tuple(
        (
            reader.patterns.check(pattern, "patternProperties", path),
            reader.term(reader.document.named(number, "patternProperties", pattern)),
        )
        for pattern in by_pattern
    )
    named: list[tuple[str, Term]] = []
    for key in own:
        term = reader.term(reader.document.named(number, "properties", key))
        matching = (wanted for pattern, wanted in patterns if reader.patterns.matches(pattern, key))
        named.append((key, reduce(meet, matching, term)))
    closed = "additionalProperties" in schema
    fallback = reader.term(reader.document.at(number, "additionalProperties")) if closed else ANYTHING
    layers = (Layer(patterns, fallback),) if patterns or fallback != ANYTHING else ()
    if not reader.document.unevaluated:
        return values.if_object(Objects(tuple(named), layers), reader.patterns.matches)
    seen, seen_patterns = frozenset(own), frozenset(by_pattern)
    return _objects(
        reader, values, Objects(tuple(named), layers, seen=seen, seen_patterns=seen_patterns, seen_all=closed)
    )


def required(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if isinstance(schema["required"], bool):
        raise reader.unsupported(number, "required", "a boolean (draft 3)")
    return _objects(
        reader, values, Objects(required=frozenset(reader.names(number, "required", schema["required"])))
    )


def min_properties(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _objects(reader, values, Objects(low=reader.count(number, schema, "minProperties")))


def max_properties(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _objects(reader, values, Objects(high=reader.count(number, schema, "maxProperties")))


def property_names(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    term = reader.term(reader.document.at(number, "propertyNames"))
    return _objects(reader, values, Objects(names=frozenset((term,)))) if term else values


def dependent_required(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    for key, needed in reader.mapping(number, schema, "dependentRequired").items():
        values = reader.meet(
            values, _if_present(reader, key, _needs(reader, number, "dependentRequired", needed))
        )
    return values


def dependent_schemas(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    for key in reader.mapping(number, schema, "dependentSchemas"):
        then = reader.in_place(reader.document.named(number, "dependentSchemas", key))
        values = reader.meet(values, _if_present(reader, key, then))
    return values


def dependencies(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    for key, needed in reader.mapping(number, schema, "dependencies").items():
        if isinstance(needed, Mapping | bool):
            then = reader.in_place(reader.document.named(number, "dependencies", key))
        else:
            then = _needs(reader, number, "dependencies", [needed] if isinstance(needed, str) else needed)
        values = reader.meet(values, _if_present(reader, key, then))
    return values


def _needs(reader: Reader, number: int, keyword: str, needed: Any) -> Values:
    return Values(objects=(Objects(required=frozenset(reader.names(number, keyword, needed))),))


def _if_present(reader: Reader, key: str, then: Values) -> Values:
    """Objects without `key`, objects with it that are in `then`, and everything that is no object."""
    present = NOTHING._replace(objects=(Objects(required=frozenset((key,))),))
    absent = Values(objects=(Objects(named=((key, NEVER),)),))
    return absent.union(reader.meet(present, then))


def unevaluated_properties(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    reader.check_unevaluated(number, "unevaluatedProperties")
    rest = reader.term(reader.document.at(number, "unevaluatedProperties"))
    objects = []
    for o in values.objects:
        if not o.seen_all:
            patterns = tuple((pattern, ANYTHING) for pattern in sorted(o.seen_patterns))
            named = tuple((key, ANYTHING) for key in sorted(o.seen))
            joined = o.join(Objects(named, (Layer(patterns, rest),), seen_all=True), reader.patterns.matches)
            if joined is None:
                continue
            o = joined
        objects.append(o)
    return values._replace(objects=tuple(dict.fromkeys(objects)))
