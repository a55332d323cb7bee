# SPDX-License-Identifier: Apache-2.0
"""Schemas against jsonschema: a table of schemas times a table of values, random walks, and made-up
schemas.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations
from typing import Annotated, Any

import jsonschema
import msgspec
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_constrain import (
    Compiler,
    ConstrainError,
    Grammar,
    GrammarTooLarge,
    InvalidSchema,
    Limits,
    UnsupportedSchema,
    Vocabulary,
)
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.schema.compiling import json_schema
from sgl_constrain.states import DEAD
from sgl_constrain.utf8 import Heads

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    10,
    12,
    1.5,
    -0.5,
    100,
    0.01,
    2.25,
    15,
    -3,
    "",
    "a",
    "ab",
    "abc",
    "foo",
    'a"b',
    "é",
    "😀",
    "\n",
    "x\\y",
    "foobar",
    "2024-02-29",
    "2023-02-29",
    "b",
    "x",
    [],
    [1],
    [1, 2],
    [1, 2, 3],
    ["a"],
    [1, "a"],
    [[1]],
    [True, False],
    [1, 1],
    ["a", 1],
    [None],
    [2, 1, "a"],
    {},
    {"a": 1},
    {"b": "x"},
    {"a": 1, "b": "x"},
    {"a": "x"},
    {"c": 3},
    {"a": 1, "c": 3},
    {"a": 2, "b": 1},
    {"type": "x", "v": 1},
    {"type": "y", "v": "s"},
    {"type": "x", "v": "s"},
    {"a": {"a": {}}},
    {"a": None},
    {"ab": 1},
    {"xa": 2},
    {"a": [{"a": []}]},
    {"a": 1, "b": "x", "c": 3},
    {"ab": "x", "c": 1},
    {"": 0},
]

TREE = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/tree"}},
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    {},
    True,
    {"type": "integer"},
    {"type": "number"},
    {"type": ["string", "null"]},
    {"type": "object"},
    {"enum": [1, "a", None, {"a": 1}, [1, 2], "é"]},
    {"const": 1},
    {"const": 1.5},
    {"const": [1, "a"]},
    {"const": 'a"b'},
    # numbers
    {"minimum": 1},
    {"exclusiveMinimum": 1},
    {"maximum": 2.25},
    {"exclusiveMaximum": 0},
    {"minimum": -1, "maximum": 2},
    {"type": "integer", "minimum": -1, "maximum": 10},
    {"multipleOf": 3},
    {"multipleOf": 0.5},
    {"multipleOf": 0.25},
    {"type": "integer", "multipleOf": 5, "exclusiveMinimum": 0},
    {"multipleOf": 1},
    {"minimum": -0.5, "maximum": -0.5},
    {"type": "number", "not": {"multipleOf": 3}},
    {"type": "number", "not": {"type": "integer"}},
    {"type": "integer", "not": {"minimum": 2, "maximum": 10}},
    {"not": {"const": 1}},
    {"not": {"enum": [1, "a"]}},
    # strings
    {"minLength": 2},
    {"maxLength": 2},
    {"minLength": 1, "maxLength": 1},
    {"pattern": "^a"},
    {"pattern": "b"},
    {"pattern": "^[a-c]+$", "maxLength": 2},
    {"not": {"pattern": "a"}},
    {"pattern": "^(?!foo)[a-z]+"},
    {"type": "string", "not": {"pattern": "^a", "maxLength": 2}},
    {"format": "date", "type": "string"},
    {"type": "string", "not": {"format": "date"}},
    {"format": "color"},
    {"pattern": '"'},
    {"pattern": r"\\|\n"},
    # arrays
    {"items": {"type": "integer"}},
    {"minItems": 1},
    {"maxItems": 1},
    {"minItems": 2, "maxItems": 2},
    {"maxItems": 0},
    {"prefixItems": [{"type": "integer"}, {"type": "string"}]},
    {"prefixItems": [{"type": "integer"}], "items": False},
    {"contains": {"const": 1}},
    {"contains": {"const": 1}, "maxContains": 1},
    {"items": False},
    {"contains": {"type": "integer"}, "minContains": 2, "maxItems": 3},
    {"contains": {"const": 9}, "minContains": 0},
    {"uniqueItems": True, "items": {"enum": [1, 2, "a"]}},
    {"uniqueItems": True, "items": {"type": "boolean"}},
    {"uniqueItems": True, "maxItems": 1},
    {
        "uniqueItems": True,
        "prefixItems": [{"enum": [1, 2]}, {"enum": [2, "a"]}],
        "items": {"enum": [1, "a", 3]},
    },
    {"uniqueItems": True, "prefixItems": [{"type": "boolean"}, {"type": "boolean"}], "items": False},
    {"uniqueItems": True, "prefixItems": [{"enum": [1, 2]}, {"const": 1}], "minItems": 2, "maxItems": 2},
    {"not": {"items": {"type": "integer"}}},
    {"not": {"minItems": 2}},
    {"not": {"contains": {"const": 1}}},
    {"not": {"prefixItems": [{"const": 1}, {"const": 2}]}},
    # objects
    {"properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"required": ["a", "c"]},
    {"propertyNames": {"minLength": 2}},
    {"properties": {"a": True, "b": True}, "additionalProperties": False},
    {"properties": {"a": False}},
    {"patternProperties": {"^a": {"type": "integer"}}},
    {"propertyNames": {"pattern": "^a"}},
    {"propertyNames": False},
    {"patternProperties": {"a": {"type": "integer"}}, "additionalProperties": {"type": "string"}},
    {"patternProperties": {"a": {"type": "integer"}, "b": {"type": "string"}}},
    {"minProperties": 1},
    {"maxProperties": 1},
    {"properties": {"a": True, "b": True, "c": True}, "additionalProperties": False, "minProperties": 2},
    {"properties": {"a": True}, "maxProperties": 2, "required": ["a"]},
    {"propertyNames": {"enum": ["a", "c"]}},
    {"dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"a": {"required": ["c"]}, "b": False}},
    {"not": {"required": ["a"]}},
    {"not": {"properties": {"a": {"const": 1}}}},
    {"not": {"minProperties": 1}},
    # combinations
    {"allOf": [{"minimum": 1}, {"maximum": 2}]},
    {"anyOf": [{"type": "string"}, {"minimum": 2}]},
    {"not": {"type": "array"}},
    {"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"a": {"minimum": 2}, "b": True}}]},
    {"allOf": [{"properties": {"a": True}, "additionalProperties": False}, {"required": ["a"]}]},
    {"oneOf": [{"type": "string"}, {"type": "integer"}]},
    {"oneOf": [{"minimum": 1}, {"maximum": 2}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"oneOf": [{"type": "number"}, {"type": "integer"}]},
    {"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["c"]}},
    {"not": {"not": {"minLength": 2}}},
    {
        "oneOf": [
            {"properties": {"type": {"const": "x"}, "v": {"type": "integer"}}, "required": ["type", "v"]},
            {"properties": {"type": {"const": "y"}, "v": {"type": "string"}}, "required": ["type"]},
        ]
    },
    {
        "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
        "then": {"required": ["b"]},
        "else": {"type": "object"},
    },
    {"if": {"type": "string"}, "then": {"maxLength": 1}},
    {"if": {"minimum": 2}, "else": {"type": ["integer", "string"]}},
    # references
    {"$defs": {"tree": TREE}, "$ref": "#/$defs/tree"},
    {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}},
    {
        "$id": "http://x/y",
        "$defs": {"q": {"$anchor": "foo", "type": "integer"}},
        "properties": {"a": {"$ref": "#foo"}},
    },
    {
        "$id": "http://x/y",
        "$defs": {"q": {"$id": "z", "type": "integer"}},
        "properties": {"a": {"$ref": "/z"}},
    },
    {"$defs": {"a/b~c": {"type": "string"}}, "items": {"$ref": "#/$defs/a~1b~0c"}},
    {"$ref": "#/$defs/s", "minLength": 2, "$defs": {"s": {"type": "string"}}},
    {
        "anyOf": [{"$ref": "#/$defs/n"}, {"type": "null"}],
        "$defs": {"n": {"items": {"$ref": "#"}, "type": "array"}},
    },
    # branches that can only be told apart by what is being read
    {"oneOf": [{"type": "array", "items": {"$ref": "#"}, "minItems": 1}, {"minItems": 2}]},
    {
        "type": "object",
        "oneOf": [
            {"properties": {"a": {"allOf": [{"$ref": "#"}]}}, "required": ["a"]},
            {"properties": {"a": {"const": 1}}, "required": ["a"]},
            {"maxProperties": 0},
        ],
    },
    # unevaluated
    {"properties": {"a": True}, "unevaluatedProperties": False},
    {"prefixItems": [True], "unevaluatedItems": False},
    {
        "allOf": [{"properties": {"a": True}}, {"patternProperties": {"^c": True}}],
        "unevaluatedProperties": {"type": "string"},
    },
    {
        "anyOf": [
            {"properties": {"a": True}, "required": ["a"]},
            {"properties": {"b": True}, "required": ["b"]},
        ],
        "unevaluatedProperties": False,
    },
    {
        "if": {"properties": {"a": {"const": 1}}, "required": ["a"]},
        "then": {"properties": {"b": True}},
        "unevaluatedProperties": False,
    },
    {"allOf": [{"prefixItems": [{"type": "integer"}]}], "unevaluatedItems": {"type": "string"}},
    {"anyOf": [{"items": {"type": "string"}}, True], "unevaluatedItems": {"type": "integer"}},
    {"$id": "urn:example:a", "items": {"$ref": "#/$defs/n"}, "$defs": {"n": {"type": "null"}}},
    {"prefixItems": [True], "contains": {"type": "string"}, "unevaluatedItems": False},
    {
        "allOf": [{"contains": {"multipleOf": 2}}, {"contains": {"const": 3}}],
        "unevaluatedItems": {"const": 1},
    },
    # opposites of what is said of keys without a name
    {"not": {"additionalProperties": {"type": "integer"}}},
    {"not": {"properties": {"a": True}, "additionalProperties": False}},
    {"not": {"patternProperties": {"^a": {"type": "integer"}}}},
    {"not": {"patternProperties": {"a": True, "b": {"const": 1}}, "additionalProperties": {"const": "x"}}},
    {"not": {"propertyNames": {"maxLength": 1}}},
    {"not": {"not": {"additionalProperties": {"type": "integer"}}}},
    {"not": {"not": {"propertyNames": {"maxLength": 1}}}},
    {"not": {"not": {"patternProperties": {"a": {"const": 1}}, "additionalProperties": {"const": "x"}}}},
    {"not": {"const": {"a": 1}}},
    {"not": {"enum": [{"a": 1, "b": "x"}, [1, {"a": 1}], {}]}},
    {"not": {"additionalProperties": {"type": "integer"}}, "maxProperties": 1},
    {"not": {"additionalProperties": {"type": "integer"}}, "required": ["a"], "maxProperties": 2},
    {
        "not": {"additionalProperties": {"const": 1}},
        "properties": {"a": {"const": 1}, "b": {"type": "string"}},
    },
    {"not": {"propertyNames": {"const": "a"}}, "properties": {"c": {"const": 3}}, "maxProperties": 2},
    {"not": {"properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False}},
    {"oneOf": [{"additionalProperties": {"type": "integer"}}, {"additionalProperties": {"type": "string"}}]},
    {"oneOf": [{"required": ["a"]}, {"propertyNames": {"maxLength": 1}}]},
    {"if": {"propertyNames": {"const": "a"}}, "then": {"maxProperties": 1}, "else": {"required": ["c"]}},
    {"if": {"patternProperties": {"^a": {"type": "integer"}}}, "unevaluatedProperties": False},
    {
        "allOf": [
            {"not": {"patternProperties": {"^a": {"const": 1}}}},
            {"not": {"propertyNames": {"const": "a"}}},
        ]
    },
    {"not": {"prefixItems": [{"const": 1}], "items": {"type": "string"}}},
    {"not": {"not": {"prefixItems": [{"const": 1}], "items": {"type": "integer"}}}},
]


def valid(schema: Any, value: Any) -> bool:
    checker = jsonschema.FormatChecker()
    return bool(jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(value))


def spelled(value: Any) -> list[str]:
    texts = [json.dumps(value, ensure_ascii=False), json.dumps(value, ensure_ascii=False, indent=1)]
    return [*texts, json.dumps(value, ensure_ascii=False, separators=(",", ":"))]


def ordered(value: Any) -> list[Any]:
    """The value with the keys of its outermost object in every order: a key that must have some value comes
    after others of its kind.
    """
    if not isinstance(value, dict):
        return [value]
    return [{key: value[key] for key in keys} for keys in permutations(value)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:60])
def test_a_schema_allows_what_jsonschema_allows(
    compiler: Compiler,
    accepts: Callable[[Grammar, str], bool],
    random_text: Callable[[Grammar, random.Random], str],
    schema: Any,
) -> None:
    grammar = compiler.json_schema(schema, key_order="any")
    assert grammar.warnings == ()
    for value in VALUES:
        for texts in zip(*map(spelled, ordered(value)), strict=True):
            assert any(accepts(grammar, text) for text in texts) == valid(schema, value), texts
    rng = random.Random(repr(schema))
    in_order = compiler.json_schema(schema)
    for _ in range(6):
        text = random_text(rng.choice([grammar, in_order]), rng)
        value = json.loads(text)
        if not isinstance(value, float) or math.isfinite(value):
            assert valid(schema, value), text


OLDER: list[tuple[Any, Any, list[Any], list[Any]]] = [
    (
        "draft-07",
        {"dependencies": {"a": ["b"], "b": {"required": ["a"]}}},
        [{}, {"a": 1, "b": 2}],
        [{"a": 1}, {"b": 1}],
    ),
    ("draft-07", {"items": [{"type": "integer"}], "additionalItems": False}, [[], [1]], [[1, 1], ["a"]]),
    ("draft-07", {"items": [{"type": "integer"}]}, [[], [1, "a"]], [["a"]]),
    (
        "draft-07",
        {"definitions": {"n": {"type": "null"}}, "$ref": "#/definitions/n", "type": "string"},
        [None],
        ["a"],
    ),
    ("draft-04", {"minimum": 1, "exclusiveMinimum": True}, [2, 1.5, "a"], [1, 0]),
    ("draft-04", {"maximum": 1, "exclusiveMaximum": False}, [1], [2]),
    (
        "draft-04",
        {"id": "http://x/y", "definitions": {"n": {"id": "#n", "enum": [3]}}, "not": {"$ref": "#n"}},
        [4],
        [3],
    ),
]


@pytest.mark.parametrize(("draft", "schema", "good", "bad"), OLDER)
def test_older_spellings(
    compiler: Compiler,
    accepts: Callable[[Grammar, str], bool],
    draft: str,
    schema: Any,
    good: list[Any],
    bad: list[Any],
) -> None:
    whole = {"$schema": f"http://json-schema.org/{draft}/schema#", **schema}
    validator = jsonschema.validators.validator_for(whole)(whole)
    grammar = compiler.json_schema(whole)
    for value in [*good, *bad]:
        assert accepts(grammar, json.dumps(value)) == (value in good) == validator.is_valid(value), value


def test_dynamic_references_with_one_target(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    schema = {"$dynamicAnchor": "node", "type": "array", "items": {"$dynamicRef": "#node"}}
    grammar = compiler.json_schema(schema)
    assert accepts(grammar, "[[], [[]]]") and not accepts(grammar, "[1]")


TREE_AND_STRICT_TREE = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "$id": "https://schemas.example/strict",
    "$recursiveAnchor": True,
    "$ref": "tree",
    "unevaluatedProperties": False,
    "$defs": {
        "tree": {
            "$id": "tree",
            "$recursiveAnchor": True,
            "type": "object",
            "properties": {"a": {"$recursiveRef": "#"}, "b": True},
        }
    },
}


@pytest.mark.parametrize("newer", [False, True])
def test_a_reference_is_bound_by_the_outermost_document(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], newer: bool
) -> None:
    text = json.dumps(TREE_AND_STRICT_TREE)
    if newer:
        text = text.replace('"$recursiveAnchor": true', '"$dynamicAnchor": "node"').replace(
            "2019-09", "2020-12"
        )
        text = text.replace('"$recursiveRef": "#"', '"$dynamicRef": "#node"')
    schema = json.loads(text)
    validator = jsonschema.validators.validator_for(schema)(schema)
    grammar = compiler.json_schema(schema)
    for value in ({}, {"a": {"b": 1}}, {"a": {"c": 1}}, {"c": 1}, {"a": {"a": {"x": 1}}}, {"a": 1}):
        assert accepts(grammar, json.dumps(value)) == validator.is_valid(value), value


def test_references_into_other_documents() -> None:
    given = {
        "https://schemas.example/n": {"$defs": {"n": {"$ref": "m#size"}}},
        "https://schemas.example/m": {"$defs": {"m": {"$anchor": "size", "type": "integer"}}},
    }
    expressions = Expressions(Heads(), Limits())
    schema = {"$id": "https://schemas.example/root", "items": {"$ref": "n#/$defs/n"}, "type": "array"}
    options: Any = {"max_whitespace": 0, "any_order": False, "lenient": False}
    root, _ = json_schema(expressions, schema, resources=given, **options)
    automaton = Automaton(expressions, root)
    for text, found in ((b"[1,2]", True), (b'["a"]', False)):
        state = automaton.start
        for byte in text:
            state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
        assert automaton.accepts(state) == found
    with pytest.raises(UnsupportedSchema, match="points outside"):
        json_schema(Expressions(Heads(), Limits()), schema, **options)


FORMATS = {
    "date": (
        ["2024-02-29", "2000-02-29", "0001-12-31"],
        ["2023-02-29", "1900-02-29", "2024-13-01", "2024-04-31", "0000-01-01"],
    ),
    "time": (["12:00:00Z", "23:59:59.5+01:00"], ["24:00:00Z", "12:00:00", "12:60:00Z"]),
    "date-time": (["2024-02-29T12:00:00Z"], ["2024-02-30T12:00:00Z", "2024-02-29 12:00:00Z"]),
    "duration": (
        ["P1Y", "P1Y2M3D", "PT1H30M", "P2W", "P1DT1S"],
        ["P", "PT", "P1D1Y", "1D", "P1Y2D", "PT1H1S"],
    ),
    "email": (["a@b.c", "a.b+c@example.org"], ["a", "@b", "a@", "a..b@c.d", "a b@c.d"]),
    "hostname": (["example.org", "a", "a-b.c"], ["-a", "a-", "a..b", "", "a" * 64, ".".join(["a" * 50] * 6)]),
    "ipv4": (["127.0.0.1", "255.255.255.255"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
    "ipv6": (
        ["::1", "::", "1:2:3:4:5:6:7:8", "1::8", "::ffff:1.2.3.4"],
        ["1:2:3:4:5:6:7", "1::2::3", "12345::", ":1"],
    ),
    "uri": (
        ["http://a.b/c?d#e", "urn:x:y", "mailto:a@b.c", "http://[::1]:80/"],
        ["a/b", "//a", "http://a b", "http://[", "1:a"],
    ),
    "uuid": (
        ["123e4567-e89b-12d3-a456-426614174000"],
        ["123e4567e89b12d3a456426614174000", "g23e4567-e89b-12d3-a456-426614174000"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_enforced(compiler: Compiler, accepts: Callable[[Grammar, str], bool], name: str) -> None:
    grammar = compiler.json_schema({"type": "string", "format": name})
    checker = jsonschema.FormatChecker()
    good, bad = FORMATS[name]
    for text in good:
        assert accepts(grammar, json.dumps(text)), text
        assert name == "time" or checker.conforms(text, name), text  # its `time` is that of an older draft
    for text in bad:
        assert not accepts(grammar, json.dumps(text)), text


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "keyword", "path"),
    [
        ({"items": {"uniqueItems": True}}, "uniqueItems", "/items"),
        ({"contains": {"const": 1}, "items": {"enum": [1, 2]}, "uniqueItems": True}, "uniqueItems", ""),
        ({"minProperties": 2}, "minProperties", ""),
        ({"not": {"uniqueItems": True}}, "not", ""),
        ({"oneOf": [{"minItems": 1}, {"uniqueItems": True}]}, "oneOf", ""),
        ({"if": {"items": {"uniqueItems": True}}, "then": False}, "uniqueItems", "/if/items"),
        (
            {"allOf": [{"not": {"additionalProperties": {"type": t}}} for t in ("null", "string")]},
            "additionalProperties",
            "",
        ),
        ({"properties": {"a": {"multipleOf": 99991}}}, "multipleOf", "/properties/a"),
        ({"properties": {"x/y": {"pattern": "(a)\\1"}}}, "pattern", "/properties/x~1y"),
        ({"patternProperties": {"\\bx": True}}, "patternProperties", ""),
        ({"extends": {}}, "extends", ""),
        ({"$ref": "https://elsewhere.example/schema"}, "$ref", ""),
        ({"required": True}, "required", ""),
    ],
)
def test_what_cannot_be_exact_is_refused_or_warned_about(
    compiler: Compiler, schema: Any, keyword: str, path: str
) -> None:
    with pytest.raises(UnsupportedSchema) as caught:
        compiler.json_schema(schema)
    assert (caught.value.keyword, caught.value.path) == (keyword, path)
    warnings = compiler.json_schema(schema, lenient=True).warnings
    assert len(warnings) == 1 and warnings[0].startswith(repr(keyword))


_TWICE = {"pattern": r"^(.)\1"}  # is left out


@pytest.mark.parametrize(
    "schema",
    [
        {"not": _TWICE},
        {"not": {"minLength": 2, **_TWICE}},
        {"not": {"anyOf": [_TWICE, {"type": "array"}]}},
        {"not": {"$ref": "#/$defs/twice"}, "$defs": {"twice": {"allOf": [_TWICE]}}},
        {"not": {"properties": {"a": _TWICE}, "required": ["a"]}},
        {"not": {"items": _TWICE}},
        {"not": {"propertyNames": _TWICE}},
        {"not": {"patternProperties": {r"^(.)\1": False}}},
        {"not": {"not": {"not": _TWICE}}},
        {"not": {"oneOf": [{"type": "array"}, {"uniqueItems": True}]}},
        {"oneOf": [_TWICE, {"type": ["integer", "string"]}]},
        {"oneOf": [{"type": "string", **_TWICE}, {"type": "string", "minLength": 2, **_TWICE}]},
        {"if": _TWICE, "then": {"maxLength": 1}, "else": {"minLength": 2}},
        {"contains": {"type": "string", **_TWICE}, "minContains": 0, "maxContains": 0},
        {"anyOf": [{"patternProperties": {r"^(.)\1": True}}], "unevaluatedProperties": {"type": "integer"}},
        {"if": {"prefixItems": [_TWICE, True]}, "unevaluatedItems": {"type": "integer"}},
    ],
)
def test_what_is_left_out_forbids_nothing(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], schema: Any
) -> None:
    grammar = compiler.json_schema(schema, key_order="any", lenient=True)
    assert grammar.warnings
    for value in [*VALUES, "aa", "aab", ["aa"], ["aa", "b"], {"aa": "x"}, {"a": "aa"}]:
        texts = [json.dumps(same, ensure_ascii=False) for same in ordered(value)]
        assert any(accepts(grammar, text) for text in texts) or not valid(schema, value), value


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("{", ""),
        ("NaN", ""),
        (3, ""),
        ({"items": {"type": "int"}}, "/items"),
        ({"properties": {"a": 3}}, "/properties/a"),
        ({"properties": []}, ""),
        ({"minLength": -1}, ""),
        ({"minimum": "1"}, ""),
        ({"maximum": float("nan")}, ""),
        ({"multipleOf": 0}, ""),
        ({"enum": []}, ""),
        ({"required": "a"}, ""),
        ({"anyOf": []}, ""),
        ({"pattern": "("}, ""),
        ({"$ref": "#/nowhere"}, ""),
        ({"$ref": "#nowhere"}, ""),
        ({"$ref": "#"}, ""),
        ({"$recursiveRef": "#"}, ""),
        ({"allOf": [{"$ref": "#"}]}, ""),
        ({"minimum": 1e400, "items": {}}, ""),
        ({"exclusiveMinimum": True}, ""),
        ({"exclusiveMaximum": False, "minimum": 1}, ""),
        ({"$id": "http://[x", "items": {"$ref": "y"}}, "/items"),
        ({"$id": "http://x/", "items": {"$id": "http://[y"}}, "/items"),
        # no value satisfies these
        (False, ""),
        ({"type": "integer", "minimum": 2, "exclusiveMaximum": 3, "multipleOf": 5}, ""),
        ({"type": "string", "pattern": "^a", "enum": ["b"]}, ""),
        ({"type": "string", "pattern": "^a{3}$", "maxLength": 2}, ""),
        ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, ""),
        ({"type": "array", "minItems": 3, "maxItems": 2}, ""),
    ],
)
def test_what_is_no_schema_or_allows_nothing_is_invalid(compiler: Compiler, schema: Any, path: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        compiler.json_schema(schema)
    assert caught.value.path == path and not isinstance(caught.value, UnsupportedSchema)


def test_hostile_schemas_stay_inside_their_limits(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    deep: Any = {}
    for _ in range(500):
        deep = {"items": deep}
    brackets: Any = []
    for _ in range(5000):
        brackets = [brackets]
    for schema in (deep, {"default": brackets}, "[" * 100_000, {"description": "x" * 3_000_000}):
        with pytest.raises(GrammarTooLarge):
            compiler.json_schema(schema)
    with pytest.raises(GrammarTooLarge):
        compiler.json_schema({"contains": True, "minItems": 10**6, "maxContains": 5})
    wide = {
        "properties": {f"property {i}": {"type": ["integer", "string"]} for i in range(3000)},
        "type": "object",
    }
    grammar = compiler.json_schema(wide)
    assert grammar.step_bytes(grammar.start, b'{"property 2999": 1}')
    chain = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(500)} | {"d500": {"type": "null"}}
    grammar = compiler.json_schema({"$defs": chain, "$ref": "#/$defs/d0"})
    assert grammar.forced(grammar.start) == b"null"
    branches = ({}, {"b": {"type": "null"}})  # each is needed to tell the branches of the one before apart
    chain = {
        f"d{i}": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {"a": {"$ref": f"#/$defs/d{i + 1}"}, **b},
                    "required": ["a", *b],
                }
                for b in branches
            ]
        }
        for i in range(100)
    } | {"d100": {"type": "null"}}
    grammar = compiler.json_schema({"$defs": chain, "$ref": "#/$defs/d0"})
    assert grammar.step_bytes(grammar.start, b'{"a": ' * 3)
    counting = compiler.json_schema({"type": "string", "minLength": 10, "maxLength": 1_000_000})
    assert counting.step_bytes(counting.start, b'"' + b"x" * 500)


def test_a_limit_on_time_ends_a_compilation(vocabulary: Vocabulary) -> None:
    branches = [{"not": {"required": [f"k{i}"], "properties": {f"k{i}": {"const": i}}}} for i in range(40)]
    with pytest.raises(GrammarTooLarge):
        Compiler(vocabulary, limits=Limits(seconds=0.5)).json_schema({"allOf": branches})


# -- how values are written ----------------------------------------------------------------------------------


def test_whitespace_is_bounded(compiler: Compiler, accepts: Callable[[Grammar, str], bool]) -> None:
    schema = {
        "properties": {"a": {"items": {"type": "integer"}}},
        "type": "object",
        "additionalProperties": False,
    }
    default, tight, compact = (
        compiler.json_schema(schema),
        compiler.json_schema(schema, max_whitespace=1),
        compiler.json_schema(schema, compact=True),
    )
    assert accepts(default, '{"a":' + " \n\t\r" * 5 + "[1 , 2]}") and not accepts(
        default, '{"a":' + " " * 21 + "[]}"
    )
    assert accepts(tight, '{ "a": [1, 2] }') and not accepts(tight, '{"a":  []}')
    assert accepts(compact, '{"a":[1,2]}') and not accepts(compact, '{"a": []}')
    assert not accepts(default, " {}") and not accepts(default, "{} ")
    assert compact.forced(compact.start) == b"{"


def test_properties_come_in_the_order_of_the_schema(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    grammar = compiler.json_schema({"properties": {"b": {}, "a": {}}, "required": ["c", "a"]})
    assert accepts(grammar, '{"b": 1, "a": 2, "c": 3, "other": 4}')
    assert not accepts(grammar, '{"a": 2, "b": 1, "c": 3}')
    assert not accepts(grammar, '{"a": 2, "c": 3, "a": 2}'), "a key comes once"
    assert not accepts(grammar, '{"a": 2, "c": 3, "\\u0061": 2}'), "under whatever spelling"


def test_a_key_that_comes_again_does_not_undo_what_some_key_must_be(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    for order in ("schema", "any"):
        some = compiler.json_schema(
            {"type": "object", "not": {"additionalProperties": {"type": "integer"}}}, key_order=order
        )
        assert accepts(some, '{"x": "s"}') and accepts(some, '{"x": 1, "x": "s"}')
        assert accepts(some, '{"y": 1, "x": "s"}') and accepts(some, '{"x": "s", "y": "t"}')
        assert not accepts(some, '{"x": "s", "x": 1}'), "the last one counts, and is an integer"
        other = {"properties": {"x": True}, "patternProperties": {"^a": {"type": "integer"}}}
        kinds = compiler.json_schema(
            {"type": "object", "not": other, "properties": {"x": True}}, key_order=order
        )
        assert accepts(kinds, '{"ab": "s", "b": 1}') and not accepts(kinds, '{"ab": "s", "b": 1, "ab": 1}')


@pytest.mark.parametrize("order", ["schema", "any"])
def test_no_key_is_begun_after_which_the_object_cannot_be_finished(compiler: Compiler, order: Any) -> None:
    for rest in (
        {"required": ["c"], "maxProperties": 1},
        {"required": ["b", "c"], "maxProperties": 2},
        {"not": {"additionalProperties": {"type": "integer"}}, "maxProperties": 1},
        {"not": {"additionalProperties": {"type": "integer"}}, "maxProperties": 2, "required": ["b"]},
        {"propertyNames": {"enum": ["b", "c"]}},
    ):
        schema = {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"const": 1}, "c": {"type": "string"}},
            "additionalProperties": False,
            **rest,
        }
        grammar = compiler.json_schema(schema, key_order=order)
        assert grammar.step_bytes(grammar.start, b'{"a') == DEAD, rest
        assert grammar.step_bytes(grammar.start, b'{"c') != DEAD or "b" in rest.get("required", []), rest


@pytest.mark.parametrize("order", ["schema", "any"])
@pytest.mark.parametrize(
    ("schema", "begun"),
    [
        ({"properties": {"a": {"type": "integer", "enum": ["x"]}}, "additionalProperties": False}, b'{"a"'),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "array", "const": 1}}, b'{"x"'),
        ({"additionalProperties": {"type": "array", "const": 1}}, b'{"x"'),
        ({"patternProperties": {"[0-9]": {"allOf": [{"type": "integer"}, {"type": "string"}]}}}, b'{"0"'),
    ],
)
def test_no_key_is_begun_that_has_no_value(compiler: Compiler, schema: Any, begun: bytes, order: Any) -> None:
    grammar = compiler.json_schema({"type": "object", **schema}, key_order=order)
    assert grammar.step_bytes(grammar.start, begun) == DEAD


@pytest.mark.parametrize(
    ("schema", "refused"),
    [
        ({"type": "number", "exclusiveMinimum": -0.0}, "0"),
        ({"type": "integer", "not": {"const": -0.0}}, "0"),
        ({"type": "integer", "not": {"maximum": -0.0}}, "0"),
    ],
)
def test_zero_with_a_sign_is_zero(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], schema: Any, refused: str
) -> None:
    grammar = compiler.json_schema(schema)
    assert accepts(grammar, "1") and not accepts(grammar, refused)


def test_strings_without_conditions_may_use_every_escape(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    grammar = compiler.json_schema({"type": "string"})
    for text in (r'"\u00e9\/\n"', r'"\uD83D\uDE00"', '"\x7f"', r'"\uFFFF\ud7ff\uE000"'):
        assert accepts(grammar, text), text
    for text in ('"\n"', r'"\x"', r'"\ud800"', r'"\ud800\u0041"', r'"\udc00"', '"a', r'"\u12"'):
        assert not accepts(grammar, text), text


def test_integers_are_written_without_fraction(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    integer, number = (
        compiler.json_schema({"type": "integer"}),
        compiler.json_schema({"type": "number", "minimum": 1}),
    )
    assert (
        accepts(integer, "-0")
        and accepts(integer, "10")
        and not accepts(integer, "1.0")
        and not accepts(integer, "01")
    )
    assert (
        accepts(number, "1.0")
        and accepts(number, "1.50")
        and not accepts(number, "1e3")
        and not accepts(number, "0.999")
    )


def test_any_object(compiler: Compiler, accepts: Callable[[Grammar, str], bool]) -> None:
    grammar = compiler.json_object()
    assert accepts(grammar, '{"a": [1, {"b": null}], "": "x"}') and not accepts(grammar, "[]")
    assert compiler.json_object(compact=True) is compiler.json_schema('{"type": "object"}', compact=True)


class Point(pydantic.BaseModel):
    x: int
    label: str | None = None


class Line(msgspec.Struct):
    x: int
    label: str | None = None


@dataclass
class Dot:
    x: int
    label: str | None = None


@pydantic.dataclasses.dataclass
class Bounded:
    x: Annotated[int, pydantic.Field(ge=0)]
    label: str | None = None


@pytest.mark.parametrize("model", [Bounded, pydantic.TypeAdapter(Bounded)])
def test_constraints_of_pydantic_are_kept(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], model: object
) -> None:
    grammar = compiler.json_schema(model)
    assert accepts(grammar, '{"x": 3, "label": "a"}') and not accepts(grammar, '{"x": -1}')


def test_what_picks_items_out_does_not_change_the_order_of_keys(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    person = {"properties": {"name": {"type": "string"}, "role": {"enum": ["lead", "member"]}}}
    lead = {"properties": {"role": {"const": "lead"}}, "required": ["role"]}
    for schema in (
        {"type": "array", "items": person, "contains": lead},
        {"type": "array", "items": person, "if": {"items": lead}, "then": {"minItems": 1}},
        {"type": "array", "items": {**person, "not": {"properties": {"role": {"const": "member"}}}}},
    ):
        assert accepts(compiler.json_schema(schema), '[{"name": "a", "role": "lead"}]'), schema


@pytest.mark.parametrize("model", [Point, Line, Dot])
def test_a_model_class_stands_for_its_schema(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], model: type
) -> None:
    grammar = compiler.json_schema(model)
    assert accepts(grammar, '{"x": 3, "label": "a"}') and accepts(grammar, '{"x": 3}')
    assert not accepts(grammar, '{"x": "3"}') and not accepts(grammar, '{"label": "a"}')


# -- bounds of numbers, exhaustively -------------------------------------------------------------------------

BOUNDS = ["0", "1", "-1", "9", "10", "12.5", "-12.5", "0.05", "99", "100.25", "-0.3"]
NUMBERS = [
    "0",
    "1",
    "-1",
    "2",
    "9",
    "10",
    "12",
    "12.5",
    "12.49",
    "12.51",
    "-12.5",
    "-12.6",
    "0.05",
    "0.049",
    "0.1",
    "99",
]
NUMBERS += [
    "100",
    "100.25",
    "100.250",
    "100.3",
    "-0.3",
    "-0.29",
    "-0.31",
    "1000",
    "8.999",
    "9.000",
    "-10",
    "-9.9",
    "0.0",
]


@pytest.mark.parametrize("keyword", ["minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"])
@pytest.mark.parametrize("bound", BOUNDS)
def test_bounds(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool], keyword: str, bound: str
) -> None:
    grammar = compiler.json_schema(f'{{"type": "number", "{keyword}": {bound}}}')
    for text in NUMBERS:
        value, limit = float(text), float(bound)
        holds = value > limit if "inimum" in keyword else value < limit
        holds |= value == limit and not keyword.startswith("exclusive")
        assert accepts(grammar, text) == holds, text


@settings(max_examples=60)
@given(
    st.integers(-1000, 1000),
    st.integers(0, 1500),
    st.integers(1, 60),
    st.lists(st.integers(-1200, 2600), max_size=20),
)
def test_integer_ranges_and_multiples(low: int, span: int, divisor: int, values: list[int]) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": low + span, "multipleOf": divisor}
    compiler = Compiler(Vocabulary([bytes([b]) for b in range(256)], eos=[]), limits=Limits(seconds=120))
    try:
        grammar = compiler.json_schema(schema)
    except InvalidSchema:
        assert not any(value % divisor == 0 for value in range(low, low + span + 1))
        return
    for value in [*values, low, low + span, low - 1, 0, divisor, -divisor]:
        found = grammar.accepts(grammar.step_bytes(grammar.start, b"%d" % value))
        assert found == (low <= value <= low + span and value % divisor == 0), value


# -- schemas made up -----------------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "b", "c"])
LEAF = st.one_of(
    st.sampled_from(
        [True, False, {}, {"type": "null"}, {"type": "boolean"}, {"type": "string"}, {"type": "integer"}]
    ),
    st.sampled_from(
        [{"const": 1}, {"enum": ["a", 1, None]}, {"minimum": 1}, {"maximum": 1, "type": "number"}]
    ),
    st.sampled_from(
        [{"minLength": 1}, {"maxLength": 1}, {"pattern": "^a"}, {"pattern": "b$"}, {"required": ["a"]}]
    ),
    st.sampled_from(
        [{"maxItems": 1}, {"minItems": 1}, {"maxProperties": 1}, {"minProperties": 1}, {"multipleOf": 2}]
    ),
)


def _grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, min_size=1, max_size=3)
    one_keyword = st.one_of(
        st.tuples(st.sampled_from(["allOf", "anyOf", "oneOf", "prefixItems"]), several),
        st.tuples(
            st.sampled_from(["not", "items", "additionalProperties", "contains", "propertyNames"]), inner
        ),
        st.tuples(
            st.sampled_from(["properties", "patternProperties"]),
            st.dictionaries(KEYS, inner, min_size=1, max_size=2),
        ),
        st.tuples(st.sampled_from(["if", "then", "else"]), inner),
        st.tuples(st.just("dependentSchemas"), st.dictionaries(KEYS, inner, min_size=1, max_size=1)),
        st.tuples(st.sampled_from(["unevaluatedProperties", "unevaluatedItems"]), inner),
        st.just(("required", ["b"])),
    )
    return st.lists(one_keyword, min_size=1, max_size=3).map(dict)


@settings(max_examples=120)
@given(st.recursive(LEAF, _grow, max_leaves=7), st.integers(0, 10**6))
def test_made_up_schemas_agree_with_jsonschema(schema: Any, seed: int) -> None:
    compiler = Compiler(Vocabulary([bytes([b]) for b in range(256)], eos=[]), limits=Limits(seconds=120))
    try:
        grammar = compiler.json_schema(schema, key_order="any")
    except ConstrainError as error:
        if isinstance(error, InvalidSchema) and not isinstance(error, UnsupportedSchema):
            assert "no value" in str(error)
            assert not any(valid(schema, value) for value in VALUES)
        return
    for value in VALUES:
        texts = [json.dumps(same, ensure_ascii=False).encode() for same in ordered(value)]
        found = any(grammar.accepts(grammar.step_bytes(grammar.start, text)) for text in texts)
        assert found == valid(schema, value), texts
