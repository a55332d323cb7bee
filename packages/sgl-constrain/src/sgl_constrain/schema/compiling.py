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
from sgl_constrain.schema.document import Document
from sgl_constrain.schema.layout import Layout
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.reading import Reader
from sgl_constrain.schema.strings import JsonLetters
from sgl_constrain.schema.writing import Writer


def json_schema(
    expressions: Expressions, schema: Any, *, max_whitespace: int, any_order: bool, lenient: bool
) -> tuple[int, tuple[str, ...]]:
    """The JSON texts of the values that `schema` allows, and what `lenient` left out.

    Raises InvalidSchema, UnsupportedSchema, GrammarTooLarge.
    """
    document = Document(schema, expressions.limits)
    letters = JsonLetters(expressions)
    patterns = Patterns(expressions, letters)
    reader = Reader(document, patterns, lenient=lenient)
    writer = Writer(
        expressions, letters, patterns, reader, Layout(expressions, max_whitespace), any_order=any_order
    )
    root = writer.write(reader.term(document.root))
    return root, tuple(reader.warnings)


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
    if len(text) > most_chars:
        raise GrammarTooLarge(f"the schema has {len(text)} characters", limit="source_chars")
    try:
        return json.loads(text, parse_float=Decimal), text
    except ValueError as error:
        raise InvalidSchema(f"the schema is not JSON: {error}", path="") from error
    except RecursionError as error:
        raise GrammarTooLarge("the schema is nested too deeply", limit="nesting") from error


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _schema_of(source: object) -> object:
    if not isinstance(source, type):
        return dict(source) if isinstance(source, Mapping) else source
    if hasattr(source, "model_json_schema"):  # pydantic
        return source.model_json_schema()
    try:
        msgspec = importlib.import_module("msgspec")
    except ImportError as error:
        raise InvalidSchema(f"install msgspec to use {source.__name__} as a schema", path="") from error
    return msgspec.json.schema(source)
