# SPDX-License-Identifier: Apache-2.0
"""`json_schema`: one schema, whole, as an expression. Also what stands for a schema: a model class,
a dataclass.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sgl_constrain.errors import GrammarTooLarge, InvalidSchema
from sgl_constrain.expression import Expressions
from sgl_constrain.limits import DEFAULT_LIMITS
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.document import Document
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.reading import Reader
from sgl_constrain.schema.writing import Writer
from sgl_constrain.utf8 import Heads


def json_schema(
    expressions: Expressions,
    schema: Any,
    *,
    max_whitespace: int,
    any_order: bool,
    lenient: bool,
    resources: Mapping[str, Any] | None = None,
    basics: Basics | None = None,
) -> tuple[int, tuple[str, ...]]:
    """The JSON texts of the values that `schema` allows, and what `lenient` left out.

    `resources` are other documents that references may point to, by URI; `basics` are those of `expressions`,
    with as much whitespace.
    Raises InvalidSchema, UnsupportedSchema, GrammarTooLarge.
    """
    document = Document(schema, expressions.limits, resources)
    basics = basics or Basics(expressions, max_whitespace)
    patterns = Patterns(basics)
    reader = Reader(document, patterns, lenient=lenient)
    writer = Writer(basics, patterns, reader, any_order=any_order)
    root = writer.write(reader.term(document.root), at_once=basics.any_value is None)
    return root, tuple(reader.warnings)


def settled_basics(heads: Heads, max_whitespace: int, like: Basics | None = None) -> Basics:
    """What the grammars of all schemas have in common, to be copied for each. Made out of `like`, over the
    same heads, that takes a thirtieth of the time.
    """
    if like is None:
        basics = Basics(Expressions(heads, DEFAULT_LIMITS), max_whitespace)
    else:
        basics = like.laid_out(max_whitespace)
    root, _ = json_schema(
        basics.expressions, True, max_whitespace=max_whitespace, any_order=False, lenient=False, basics=basics
    )
    basics.settle(root)
    return basics


def parse_schema(source: object, *, most_chars: int) -> tuple[Any, str]:
    """The schema that `source` is or stands for, and its JSON text.

    A mapping or boolean is a schema, a string is the JSON text of one. A pydantic model, a msgspec Struct or
    a dataclass stands for the schema its library makes of it.
    """
    if isinstance(source, str):
        text = source
    else:
        try:
            text = json.dumps(_schema_of(source), allow_nan=False, default=_number)
        except (TypeError, ValueError) as error:
            raise InvalidSchema(f"the schema is not JSON: {error}", path="") from error
        except RecursionError as error:
            raise GrammarTooLarge("the schema is nested too deeply", limit="nesting") from error
    if len(text) > most_chars:
        raise GrammarTooLarge(f"the schema has {len(text)} characters", limit="source_chars")
    try:
        return _DECODER.decode(text), text
    except ValueError as error:
        raise InvalidSchema(f"the schema is not JSON: {error}", path="") from error
    except RecursionError as error:
        raise GrammarTooLarge("the schema is nested too deeply", limit="nesting") from error


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=_no_number)


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _schema_of(source: object) -> object:
    if isinstance(source, Mapping):
        return dict(source)
    if hasattr(source, "model_json_schema"):  # a pydantic model
        return source.model_json_schema()
    if hasattr(source, "json_schema"):  # pydantic's TypeAdapter
        return source.json_schema()
    if hasattr(source, "__pydantic_validator__"):  # a dataclass of pydantic's, with constraints of its own
        return _module("pydantic", source).TypeAdapter(source).json_schema()
    return _module("msgspec", source).json.schema(source) if isinstance(source, type) else source


def _module(name: str, source: object) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InvalidSchema(f"install {name} to use {source!r} as a schema", path="") from error
