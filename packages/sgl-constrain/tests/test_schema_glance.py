# SPDX-License-Identifier: Apache-2.0
"""What is told of a schema at a glance is what is told of it once it is read, which then refuses nothing."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sgl_constrain.bench.cases import cases
from sgl_constrain.errors import ConstrainError
from sgl_constrain.limits import DEFAULT_LIMITS
from sgl_constrain.schema.basics import Basics
from sgl_constrain.schema.certain import parts
from sgl_constrain.schema.compiling import parse_schema, settled_basics
from sgl_constrain.schema.document import Document
from sgl_constrain.schema.glance import glance
from sgl_constrain.schema.patterns import Patterns
from sgl_constrain.schema.reading import Reader
from sgl_constrain.utf8 import Heads

FOLDER = Path(__file__).parent / "schemas"
SCHEMAS = [
    *(case.source for case in cases() if case.kind == "schema"),
    *(json.dumps(s) for f in sorted(FOLDER.glob("*.json")) for s in json.loads(f.read_text())),
]
TOLD = (
    *("type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum"),
    *("const", "format", "minLength", "maxLength", "minimum", "maximum", "title"),
)
NAMES = st.sampled_from(("null", "boolean", "number", "integer", "string", "array", "object", "text", 1))
SMALL = st.sampled_from((0, 1, 2, 5, -1, 2.5, 10**12, True, "3", None))
WORDS = st.sampled_from(("a", "b", "é", "date", "uuid", "color"))
VALUES = st.one_of(SMALL, WORDS, NAMES, st.lists(st.one_of(WORDS, NAMES), max_size=3))
PLAIN = st.recursive(
    st.one_of(st.booleans(), st.dictionaries(st.sampled_from(TOLD), VALUES, max_size=3)),
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(("object", "array", "string"))},
        optional={
            "properties": st.one_of(st.dictionaries(WORDS, inner, max_size=3), VALUES),
            "required": st.lists(WORDS, max_size=2),
            "additionalProperties": inner,
            "items": inner,
            "minItems": SMALL,
            "maxItems": SMALL,
        },
    ),
    max_leaves=5,
)


@cache
def _basics() -> Basics:
    return settled_basics(Heads(), 20)


def _told(source: str) -> int:
    """Of how many subschemas something is told, all of it as when they are read."""
    document = Document(parse_schema(source, most_chars=10**6)[0], DEFAULT_LIMITS)
    reader = Reader(document, Patterns(_basics().copy(DEFAULT_LIMITS)), lenient=False)
    told = 0
    for number in range(1, len(document.schemas)):
        term = frozenset((number,))
        try:
            values = reader.values(term)
        except ConstrainError:
            with suppress(ConstrainError):
                assert glance(reader, term) is None
            continue
        made_of = glance(reader, term)
        if made_of is not None:
            read = parts(values)
            assert read is not None and list(made_of) == list(read), document.schemas[number]
            assert reader.read(number) == values
            told += 1
    return told


def test_schemas_as_people_write_them() -> None:
    assert sum(map(_told, SCHEMAS)) > 1000


@given(PLAIN)
@example({"type": "string", "minLength": 2, "maxLength": 1})
@example({"type": "array", "minItems": 2, "maxItems": 1})
@example({"type": "integer", "minimum": 3, "maximum": 2})
@example({"type": "object", "properties": {"a": False}, "required": ["a"]})
def test_plain_schemas_with_anything_in_them(schema: Any) -> None:
    _told(json.dumps(schema))
