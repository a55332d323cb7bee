# SPDX-License-Identifier: Apache-2.0
"""What the values of a schema are made of, told from its text alone: of the plainest schemas, which are most.

Those need not be read before a text gets there: `glance` says what `certain.parts` would say of their values,
and only of schemas whose reading refuses nothing. Of all others it says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from sgl_constrain.schema.certain import MOST_NAMED, Parts, parts_of_array, parts_of_object
from sgl_constrain.schema.conditions import Arrays, Layer, Objects
from sgl_constrain.schema.keywords.table import BARE
from sgl_constrain.schema.sets import NOTHING
from sgl_constrain.schema.terms import ANYTHING, NEVER, Term

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader

_OBJECT = BARE | {"properties", "required", "additionalProperties"}
_ARRAY = BARE | {"items", "minItems", "maxItems"}
_SCALARS = ("null", "boolean", "number", "integer", "string")
_COUNTS = frozenset(("minItems", "maxItems"))
_LISTED = frozenset(("enum", "const"))
_LARGEST = 10**9  # of the counts and bounds that are told at a glance
_LEAF = (Parts((), ()),)


def glance(reader: Reader, term: Term) -> Sequence[Parts] | None:
    """The parts of a term's values, and what is then known of these; None where the term has to be read."""
    (number, *others) = term or (0,)
    if others or number <= 0 or reader.document.unevaluated:
        return None
    schema = reader.document.schemas[number]
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    if kind == "object":
        return _object(reader, number, schema) if schema.keys() <= _OBJECT else None
    if kind == "array":
        return _array(reader, number, schema) if schema.keys() <= _ARRAY else None
    return _LEAF if _is_scalar(kind, schema) else None


def _object(reader: Reader, number: int, schema: Mapping[str, Any]) -> Sequence[Parts] | None:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not isinstance(required, list) or len(properties) > MOST_NAMED:
        return None
    if not all(isinstance(key, str) and key in properties for key in required):
        return None
    at = reader.document
    named = tuple([(key, reader.term(at.named(number, "properties", key))) for key in properties])
    fallback = ANYTHING
    if "additionalProperties" in schema:
        fallback = reader.term(at.at(number, "additionalProperties"))
    layers = () if fallback == ANYTHING else (Layer((), fallback),)
    condition = Objects(named, layers, frozenset(required))
    made_of = parts_of_object(condition)
    if NEVER in made_of.needed:
        return None
    reader.know(number, NOTHING._replace(objects=(condition,)))
    return (made_of,)


def _array(reader: Reader, number: int, schema: Mapping[str, Any]) -> Sequence[Parts] | None:
    counts = schema.keys() & _COUNTS
    if not _are_counts(schema, "minItems", "maxItems", counts) or isinstance(schema.get("items"), list):
        return None
    rest = reader.term(reader.document.at(number, "items")) if "items" in schema else ANYTHING
    condition = Arrays((), rest, schema.get("minItems", 0), schema.get("maxItems"))
    reader.know(number, NOTHING._replace(arrays=(condition,)))
    return (parts_of_array(condition),)


def _is_scalar(kind: object, schema: Mapping[str, Any]) -> bool:
    said = schema.keys() - BARE
    if isinstance(kind, list):
        return not said and bool(kind) and all(name in _SCALARS for name in kind)
    if not said:
        return kind in _SCALARS
    if said <= _LISTED and len(said) == 1 and kind in ("string", None):
        texts = schema["enum"] if "enum" in schema else [schema["const"]]
        return isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
    if kind == "string":
        return _are_counts(schema, "minLength", "maxLength", said) or (
            said == {"format"} and isinstance(schema["format"], str)
        )
    return kind in ("integer", "number") and _are_counts(schema, "minimum", "maximum", said)


def _are_counts(schema: Mapping[str, Any], low: str, high: str, said: Set[str]) -> bool:
    """Is nothing said but two bounds that leave something between them?"""
    if not said <= {low, high}:
        return False
    least, most = schema.get(low, 0), schema.get(high, _LARGEST)
    return type(least) is type(most) is int and 0 <= least <= most <= _LARGEST
