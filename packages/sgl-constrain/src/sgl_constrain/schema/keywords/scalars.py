# SPDX-License-Identifier: Apache-2.0
"""Keywords for every type, for numbers and for strings. Each function is one keyword: it narrows
`values` by what subschema `number`, whose keywords are `schema`, says.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from sgl_constrain.schema.conditions import Numbers, Strings
from sgl_constrain.schema.sets import (
    ANY_ARRAYS,
    ANY_NUMBERS,
    ANY_OBJECTS,
    ANY_STRINGS,
    EXACT,
    NOTHING,
    Values,
    decimal,
    of_value,
)
from sgl_constrain.schema.strings import FORMATS

if TYPE_CHECKING:
    from sgl_constrain.schema.reading import Reader


_TYPES: Final = {
    "null": NOTHING._replace(constants=frozenset((None,))),
    "boolean": NOTHING._replace(constants=frozenset((False, True))),
    "number": NOTHING._replace(numbers=ANY_NUMBERS),
    "integer": NOTHING._replace(numbers=(Numbers(integer=True),)),
    "string": NOTHING._replace(strings=ANY_STRINGS),
    "array": NOTHING._replace(arrays=ANY_ARRAYS),
    "object": NOTHING._replace(objects=ANY_OBJECTS),
}


def reference(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return reader.meet(values, reader.in_place(reader.document.resolve(number, "$ref")))


def dynamic_reference(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return reader.meet(values, reader.in_place(reader.document.resolve(number, "$dynamicRef")))


def recursive_reference(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return reader.meet(values, reader.in_place(reader.document.resolve(number, "$recursiveRef")))


def types(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    names = schema["type"]
    if isinstance(names, str) and names in _TYPES:
        return reader.meet(values, _TYPES[names])
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n in _TYPES for n in names):
        raise reader.wrong(number, "type", f"one or several of {', '.join(_TYPES)}")
    return reader.meet(values, reduce(Values.union, (_TYPES[name] for name in names)))


def enum(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if not isinstance(schema["enum"], list) or not schema["enum"]:
        raise reader.wrong(number, "enum", "a list of values, not empty")
    texts = frozenset(value for value in schema["enum"] if isinstance(value, str))
    some = NOTHING._replace(strings=(Strings(values=texts),) if texts else ())
    for value in schema["enum"]:
        if not isinstance(value, str):
            some = some.union(_value(reader, number, "enum", value))
    return reader.meet(values, some)


def const(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return reader.meet(values, _value(reader, number, "const", schema["const"]))


def _value(reader: Reader, number: int, keyword: str, value: Any) -> Values:
    path = reader.path(number)
    try:
        return of_value(value, lambda inner: reader.constant(inner, path))
    except ValueError as error:
        raise reader.wrong(number, keyword, "JSON values") from error


def _bound(reader: Reader, number: int, schema: Mapping[str, Any], values: Values, keyword: str) -> Values:
    opened = f"exclusive{keyword.capitalize()}"
    try:
        bound = decimal(schema[keyword])
    except ValueError as error:
        raise reader.wrong(number, keyword, "a number") from error
    is_open = schema.get(opened) is True  # draft 4: a flag beside the bound
    condition = (
        Numbers(low=bound, low_open=is_open)
        if keyword == "minimum"
        else Numbers(high=bound, high_open=is_open)
    )
    return values.if_number(condition)


def minimum(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _bound(reader, number, schema, values, "minimum")


def maximum(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _bound(reader, number, schema, values, "maximum")


def _exclusive(
    reader: Reader, number: int, schema: Mapping[str, Any], values: Values, keyword: str
) -> Values:
    if isinstance(schema[keyword], bool) and keyword.removeprefix("exclusive").lower() in schema:
        return values  # read together with the bound beside it
    try:
        bound = decimal(schema[keyword])
    except ValueError as error:
        raise reader.wrong(number, keyword, "a number") from error
    low = keyword == "exclusiveMinimum"
    return values.if_number(Numbers(low=bound, low_open=True) if low else Numbers(high=bound, high_open=True))


def exclusive_minimum(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _exclusive(reader, number, schema, values, "exclusiveMinimum")


def exclusive_maximum(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return _exclusive(reader, number, schema, values, "exclusiveMaximum")


def multiple_of(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    try:
        divisor = decimal(schema["multipleOf"]).normalize(EXACT)
    except ValueError as error:
        raise reader.wrong(number, "multipleOf", "a number") from error
    if divisor <= 0:
        raise reader.wrong(number, "multipleOf", "greater than 0")
    return values.if_number(Numbers(True) if divisor == 1 else Numbers(multiples=frozenset((divisor,))))


def min_length(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return values.if_string(Strings(low=reader.count(number, schema, "minLength")))


def max_length(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    return values.if_string(Strings(high=reader.count(number, schema, "maxLength")))


def pattern(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    pattern = reader.patterns.check(schema["pattern"], "pattern", reader.path(number))
    return values.if_string(Strings(patterns=frozenset(((pattern, True),))))


def format_(reader: Reader, number: int, schema: Mapping[str, Any], values: Values) -> Values:
    if not isinstance(schema["format"], str):
        raise reader.wrong(number, "format", "a string")
    if schema["format"] not in FORMATS:
        return values  # an annotation
    return values.if_string(Strings(formats=frozenset(((schema["format"], True),))))
