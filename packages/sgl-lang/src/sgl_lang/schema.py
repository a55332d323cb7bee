# SPDX-License-Identifier: Apache-2.0
"""What a user means by a JSON schema -> its JSON text: a dict, JSON text, or a class that describes data.

pydantic models and msgspec Structs describe themselves; neither package is imported here. Dataclasses are
described by this file, from their annotations. https://json-schema.org/draft/2020-12/schema
"""

from __future__ import annotations

import dataclasses
import enum
import json
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NoReturn

from sgl_lang.errors import ProgramError

_SIMPLE: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    None: {"type": "null"},
    types.NoneType: {"type": "null"},
    Any: {},
}


def schema_text(schema: object) -> str:
    """The schema as JSON text, its properties in the order in which they were written.

    Raises ProgramError for text that is no JSON object and for classes that cannot be described.
    """
    if isinstance(schema, str):
        return _checked(schema)
    if isinstance(schema, Mapping):
        return _dumped(schema)
    if isinstance(schema, type) and (describe := _description(schema)) is not None:
        try:
            described = describe()
        except ProgramError:
            raise
        except Exception as error:  # pydantic, msgspec and typing have each their own
            raise ProgramError(f"json_schema: {schema.__name__} cannot be described: {error}") from error
        return _dumped(described)
    raise ProgramError(
        "json_schema must be a dict, JSON text, or a class (a pydantic model, a dataclass or a msgspec"
        f" Struct), not {schema!r}"
    )


def _description(schema: type) -> Callable[[], Any] | None:
    """What describes a class, if anything does."""
    if callable(describe := getattr(schema, "model_json_schema", None)):  # a pydantic model
        return describe  # type: ignore[no-any-return]
    if (msgspec := sys.modules.get("msgspec")) is not None and issubclass(schema, msgspec.Struct):
        return partial(msgspec.json.schema, schema)
    if (pydantic := sys.modules.get("pydantic")) is not None and hasattr(schema, "__pydantic_validator__"):
        return pydantic.TypeAdapter(schema).json_schema  # type: ignore[no-any-return]  # its dataclasses
    return partial(_Described().root, schema) if dataclasses.is_dataclass(schema) else None


def _checked(text: str) -> str:
    try:
        parsed = json.loads(text, parse_constant=_refuse)
    except ValueError as error:
        raise ProgramError(f"json_schema is no valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ProgramError(f"json_schema must be a JSON object, not {text[:50]}")
    return text


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"JSON has no {constant}")


def _dumped(schema: Any) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProgramError(f"json_schema cannot be written as JSON: {error}") from None


class _Described:
    """The schema of a dataclass. Classes inside it become definitions, so that they may hold themselves."""

    def __init__(self) -> None:
        self._names: dict[type, str] = {}
        self._definitions: dict[str, Any] = {}

    def root(self, owner: type) -> dict[str, Any]:
        reference = self._reference(owner)
        return {**reference, "$defs": self._definitions}

    def _reference(self, owner: type) -> dict[str, Any]:
        if owner not in self._names:
            name = owner.__name__
            while name in self._definitions:
                name += "_"
            self._names[owner] = name
            self._definitions[name] = {}  # taken, while the class is looked at
            self._definitions[name] = self._object(owner)
        return {"$ref": f"#/$defs/{self._names[owner]}"}

    def _object(self, owner: type) -> dict[str, Any]:
        hints = typing.get_type_hints(owner)
        fields = [field for field in dataclasses.fields(owner) if field.init]
        missing = dataclasses.MISSING
        return {
            "type": "object",
            "properties": {field.name: self._type(hints[field.name], owner, field.name) for field in fields},
            "required": [f.name for f in fields if f.default is missing and f.default_factory is missing],
            "additionalProperties": False,
        }

    def _type(self, hint: Any, owner: type, field: str) -> dict[str, Any]:
        if isinstance(hint, typing.Hashable) and hint in _SIMPLE:
            return _SIMPLE[hint]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            return self._reference(hint)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return {"enum": [member.value for member in hint]}
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self._type(argument, owner, field) for argument in arguments]}
        if hint in (list, tuple) or origin in (list, set, frozenset, Sequence):
            item = self._type(arguments[0], owner, field) if arguments else {}
            return {"type": "array", "items": item}
        if origin is tuple:
            return self._tuple(arguments, owner, field)
        if hint is dict or (origin in (dict, Mapping) and arguments[0] is str):
            value = self._type(arguments[1], owner, field) if arguments else {}
            return {"type": "object", "additionalProperties": value}
        raise ProgramError(f"json_schema: {owner.__name__}.{field} has the type {hint!r}, which JSON has not")

    def _tuple(self, arguments: tuple[Any, ...], owner: type, field: str) -> dict[str, Any]:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": self._type(arguments[0], owner, field)}
        items = [self._type(argument, owner, field) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
