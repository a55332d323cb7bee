# SPDX-License-Identifier: Apache-2.0
"""Every keyword at every place where a schema can stand: enforced exactly, or refused by name and path. It is
never ignored: among the values compared with jsonschema there is one that the keyword decides.

What is found is the table in ../KEYWORDS.md, which

    python packages/sgl-constrain/tests/test_json_schema_keywords.py

writes anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from sgl_constrain import Compiler, Grammar, InvalidSchema, Limits, UnsupportedSchema, Vocabulary
from sgl_constrain.schema.keywords.table import ANNOTATIONS, READERS, REFUSED, TOGETHER

PUBLISHED = Path(__file__).parents[1] / "KEYWORDS.md"
D4, D7, D2020 = (
    "http://json-schema.org/draft-04/schema#",
    "http://json-schema.org/draft-07/schema#",
    "https://json-schema.org/draft/2020-12/schema",
)
DEFS = {"$defs": {"n": {"$anchor": "n", "type": "integer"}, "m": {"$dynamicAnchor": "m", "type": "integer"}}}


class Case(NamedTuple):
    """A schema that uses a keyword, values it decides, and the draft whose spelling it is."""

    schema: dict[str, Any]
    values: list[Any]
    draft: str = D2020


STRINGS = ["", "a", "ab", "abc", "b", "2024-02-29", 3]
NUMBERS = [0, 1, 2, 2.5, 3, -1, "a"]
ARRAYS = [[], [1], [2], [1, 1], [1, 2], ["a"], [1, "a"], [2, 1, 1], {}]
OBJECTS = [
    {},
    {"a": 1},
    {"b": 1},
    {"a": "x"},
    {"a": 1, "b": 2},
    {"b": "x", "a": 1},
    {"c": 1},
    {"ab": "x"},
    [],
]
CASES: dict[str, Case] = {
    "$ref": Case({"$ref": "#/$defs/n"}, NUMBERS),
    "$dynamicRef": Case({"$dynamicRef": "#m"}, NUMBERS),
    "type": Case({"type": ["string", "null"]}, [None, "a", 1, True, [], {}]),
    "const": Case({"const": "a"}, STRINGS),
    "enum": Case({"enum": ["a", 1, None, [1]]}, ["a", 1, None, [1], "b", 2, [], [2]]),
    "minimum": Case({"minimum": 1}, NUMBERS),
    "maximum": Case({"maximum": 2}, NUMBERS),
    "exclusiveMinimum": Case({"exclusiveMinimum": 1}, NUMBERS),
    "exclusiveMaximum": Case({"exclusiveMaximum": 2}, NUMBERS),
    "multipleOf": Case({"multipleOf": 2}, NUMBERS),
    "minLength": Case({"minLength": 2}, STRINGS),
    "maxLength": Case({"maxLength": 1}, STRINGS),
    "pattern": Case({"pattern": "^a"}, STRINGS),
    "format": Case({"format": "date"}, STRINGS),
    "prefixItems": Case({"prefixItems": [{"type": "integer"}, {"const": "a"}]}, ARRAYS),
    "items": Case({"items": {"type": "integer"}}, ARRAYS),
    "minItems": Case({"minItems": 1}, ARRAYS),
    "maxItems": Case({"maxItems": 1}, ARRAYS),
    "contains": Case({"contains": {"const": 1}}, ARRAYS),
    "uniqueItems": Case({"items": {"enum": [1, 2, "a"]}, "uniqueItems": True}, ARRAYS),
    "properties": Case({"properties": {"a": {"type": "integer"}}}, OBJECTS),
    "patternProperties": Case({"patternProperties": {"^a": {"type": "integer"}}}, OBJECTS),
    "additionalProperties": Case({"properties": {"a": True}, "additionalProperties": False}, OBJECTS),
    "required": Case({"required": ["a"]}, OBJECTS),
    "minProperties": Case({"minProperties": 1}, OBJECTS),
    "maxProperties": Case({"maxProperties": 1}, OBJECTS),
    "propertyNames": Case({"propertyNames": {"maxLength": 1}}, OBJECTS),
    "dependentRequired": Case({"dependentRequired": {"a": ["b"]}}, OBJECTS),
    "dependentSchemas": Case({"dependentSchemas": {"a": {"required": ["b"]}}}, OBJECTS),
    "dependencies": Case({"dependencies": {"a": ["b"], "b": {"required": ["a"]}}}, OBJECTS, D7),
    "allOf": Case({"allOf": [{"minimum": 1}, {"maximum": 2}]}, NUMBERS),
    "anyOf": Case({"anyOf": [{"type": "string"}, {"minimum": 2}]}, NUMBERS),
    "oneOf": Case({"oneOf": [{"minimum": 1}, {"maximum": 2}]}, NUMBERS),
    "not": Case({"not": {"type": "integer"}}, NUMBERS),
    "if": Case({"if": {"type": "integer"}, "then": {"minimum": 1}, "else": {"type": "string"}}, NUMBERS),
    "unevaluatedItems": Case({"prefixItems": [True], "unevaluatedItems": {"type": "string"}}, ARRAYS),
    "unevaluatedProperties": Case({"properties": {"a": True}, "unevaluatedProperties": False}, OBJECTS),
    "additionalItems": Case({"items": [{"type": "integer"}], "additionalItems": False}, ARRAYS, D7),
    "minContains": Case({"contains": {"const": 1}, "minContains": 2}, ARRAYS),
    "maxContains": Case({"contains": {"const": 1}, "maxContains": 1}, ARRAYS),
    "then": Case({"if": {"type": "integer"}, "then": {"minimum": 1}}, NUMBERS),
    "else": Case({"if": {"type": "integer"}, "else": {"type": "string"}}, NUMBERS),
}
# Keywords in the spelling of older drafts.
SPELLINGS: dict[str, Case] = {
    "items (a list)": Case({"items": [{"type": "integer"}, {"const": "a"}]}, ARRAYS, D7),
    "exclusiveMinimum (true)": Case({"minimum": 1, "exclusiveMinimum": True}, NUMBERS, D4),
    "exclusiveMaximum (true)": Case({"maximum": 2, "exclusiveMaximum": True}, NUMBERS, D4),
    "$ref (into definitions)": Case({"$ref": "#/definitions/n"}, NUMBERS, D7),
    "$ref (to an $anchor)": Case({"$ref": "#n"}, NUMBERS),
}
NEVER_READ: dict[str, Any] = {
    "disallow": "string", "divisibleBy": 2, "extends": {},
}  # fmt: skip


class Position(NamedTuple):
    """Where a schema stands: the schema around it, the values around its values, the pointer to it."""

    around: Callable[[Any], dict[str, Any]]
    value: Callable[[Any], Any]
    pointer: str
    since: str = D4


def same(value: Any) -> Any:
    return value


POSITIONS: dict[str, Position] = {
    "root": Position(lambda s: dict(s), same, ""),
    "properties": Position(lambda s: {"properties": {"p": s}}, lambda v: {"p": v}, "/properties/p"),
    "patternProperties": Position(
        lambda s: {"patternProperties": {"^z": s}}, lambda v: {"zz": v}, "/patternProperties/^z"
    ),
    "additionalProperties": Position(
        lambda s: {"additionalProperties": s}, lambda v: {"z": v}, "/additionalProperties"
    ),
    "propertyNames": Position(lambda s: {"propertyNames": s}, lambda v: {str(v): 1}, "/propertyNames", D7),
    "items": Position(lambda s: {"items": s}, lambda v: [v], "/items"),
    "prefixItems": Position(lambda s: {"prefixItems": [s]}, lambda v: [v], "/prefixItems/0", D2020),
    "contains": Position(lambda s: {"contains": s}, lambda v: [v], "/contains", D7),
    "$ref": Position(lambda s: {"$ref": "#/$defs/it", "$defs": {"it": s}}, same, "/$defs/it", D2020),
    "allOf": Position(lambda s: {"allOf": [s, {}]}, same, "/allOf/0"),
    "anyOf": Position(lambda s: {"anyOf": [s, {"const": "other"}]}, same, "/anyOf/0"),
    "oneOf": Position(lambda s: {"oneOf": [s, {"const": {"a": 1}}, {"const": [1]}]}, same, "/oneOf/0"),
    "not": Position(lambda s: {"not": s}, same, "/not"),
    "if": Position(lambda s: {"if": s, "then": {"enum": ["a", 1, [1], {"a": 1}]}}, same, "/if", D7),
    "then": Position(lambda s: {"if": {"not": {"const": 1}}, "then": s}, same, "/then", D7),
    "else": Position(lambda s: {"if": {"const": 1}, "else": s}, same, "/else", D7),
    "dependentSchemas": Position(
        lambda s: {"dependentSchemas": {"a": s}}, same, "/dependentSchemas/a", D2020
    ),
    "unevaluatedItems": Position(
        lambda s: {"prefixItems": [True], "unevaluatedItems": s}, lambda v: [0, v], "/unevaluatedItems", D2020
    ),
    "unevaluatedProperties": Position(
        lambda s: {"unevaluatedProperties": s}, lambda v: {"z": v}, "/unevaluatedProperties", D2020
    ),
}
ENFORCED, REFUSED_HERE, NOTHING = "yes", "refused", ""


def whole(case: Case, position: Position, schema: dict[str, Any]) -> dict[str, Any]:
    around = position.around(schema)
    definitions = around.get("$defs", {}) | DEFS["$defs"]
    older = {"definitions": {"n": {"type": "integer"}}} if case.draft == D7 else {}
    newer = {"$defs": definitions} if case.draft == D2020 else {}
    return {"$schema": case.draft, **older, **around, **newer}


def becomes(compiler: Compiler, keyword: str, case: Case, position: Position) -> str:
    """One cell of the table; an AssertionError when it is neither of what it may be."""
    if [D4, D7, D2020].index(position.since) > [D4, D7, D2020].index(case.draft):
        return NOTHING
    schema = whole(case, position, case.schema)
    valid = checker(schema)
    without = checker(whole(case, position, {k: v for k, v in case.schema.items() if k != keyword}))
    values = [*case.values, *map(position.value, case.values), {"a": 1, "z": 2}, [0, 1]]
    values = [value for value in values if json.dumps(value).isascii()]
    # Where the place itself asks only of values that the keyword does not speak of, there is nothing to see.
    if all(valid.is_valid(value) == without.is_valid(value) for value in values):
        return NOTHING
    try:
        grammar = compiler.json_schema(schema, key_order="any")
    except UnsupportedSchema as refusal:
        opposite = {"maxProperties": "minProperties"}.get(keyword)
        assert refusal.keyword in {*case.schema, *POSITIONS, opposite}, refusal
        here, there = position.pointer, refusal.path
        assert here.startswith(there) or there.startswith(here), refusal
        assert repr(refusal.keyword) in str(refusal)
        assert str(refusal) in compiler.json_schema(schema, key_order="any", lenient=True).warnings
        return REFUSED_HERE
    except InvalidSchema as empty:
        assert "no value" in str(empty) and not any(map(valid.is_valid, values)), empty
        return ENFORCED
    for value in values:
        text = json.dumps(value)
        assert accepted(grammar, text) == valid.is_valid(value), text
    return ENFORCED


def accepted(grammar: Grammar, text: str) -> bool:
    return grammar.accepts(grammar.step_bytes(grammar.start, text.encode()))


def checker(schema: dict[str, Any]) -> Any:
    made = jsonschema.validators.validator_for(schema)
    return made(schema, format_checker=jsonschema.FormatChecker())


def unhurried() -> Compiler:
    vocabulary = Vocabulary([bytes([b]) for b in range(256)], eos=[])
    return Compiler(vocabulary, cache_bytes=0, limits=Limits(seconds=120))


ROWS = {**CASES, **SPELLINGS}


@pytest.fixture(scope="module")
def bytes_only() -> Compiler:
    return unhurried()


def table(compiler: Compiler) -> Iterable[tuple[str, list[str]]]:
    for name, case in ROWS.items():
        keyword = name.split(" ")[0]
        yield name, [becomes(compiler, keyword, case, position) for position in POSITIONS.values()]


def as_markdown(rows: Iterable[tuple[str, list[str]]]) -> str:
    head = ["keyword", *POSITIONS]
    lines = [" | ".join(["", *cells, ""]).strip() for cells in (head, ["---"] * len(head))]
    lines += [" | ".join(["", f"`{name}`", *cells, ""]).strip() for name, cells in rows]
    return f"""# Where each keyword is enforced

A row for each keyword that says something about values, a column for each place where a schema can stand.
"yes": enforced exactly, as jsonschema has it. "refused": `UnsupportedSchema` with the keyword and its path (a
warning with `lenient=True`). Empty: there the keyword cannot make a difference, or the draft with this
spelling has no such place. Written by `tests/test_json_schema_keywords.py`, which finds out by trying.

{chr(10).join(lines)}
"""


def test_every_keyword_has_a_case() -> None:
    elsewhere = {"$recursiveRef"}  # which needs two documents to make a difference: in test_json_schema
    assert set(CASES) | set(REFUSED) | elsewhere == set(READERS) | set(TOGETHER)
    assert set(REFUSED) == set(NEVER_READ)


def test_every_keyword_is_enforced_or_refused_at_every_place(bytes_only: Compiler) -> None:
    rows = list(table(bytes_only))
    for name, cells in rows:
        assert cells.count(ENFORCED) > 5, f"{name}: {cells}"
    assert PUBLISHED.read_text() == as_markdown(rows), "write the table anew: see the head of this file"


@pytest.mark.parametrize("keyword", REFUSED)
@pytest.mark.parametrize("place", POSITIONS)
def test_keywords_that_are_not_read_are_refused_everywhere(
    bytes_only: Compiler, keyword: str, place: str
) -> None:
    position = POSITIONS[place]
    with pytest.raises(UnsupportedSchema) as caught:
        bytes_only.json_schema(position.around({keyword: NEVER_READ[keyword]}))
    assert (caught.value.keyword, caught.value.path) == (keyword, position.pointer)


@pytest.mark.parametrize("keyword", ANNOTATIONS)
def test_annotations_change_nothing(bytes_only: Compiler, keyword: str) -> None:
    uri, nothing = "https://a.example/b", {"x": False}
    examples = {"$id": uri, "id": uri, "$schema": D2020, "$defs": nothing, "definitions": nothing}
    schema = {"type": ["integer", "array"], "items": {"maximum": 3}, keyword: examples.get(keyword, "x")}
    grammar = bytes_only.json_schema(schema)
    assert grammar.warnings == ()
    for text, allowed in {"1": True, "[3]": True, "[4]": False, '"x"': False, "{}": False}.items():
        assert accepted(grammar, text) == allowed


def main() -> None:
    compiler = unhurried()
    PUBLISHED.write_text(as_markdown(table(compiler)))


if __name__ == "__main__":
    main()
