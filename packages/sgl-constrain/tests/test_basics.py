# SPDX-License-Identifier: Apache-2.0
"""What all schemas have in common is made once and copied: grammars made on a copy, where values are written
when a text gets there, are those made from nothing and at once.
"""

from __future__ import annotations

from typing import Any

import pytest

from sgl_constrain import Compiler, GrammarTooLarge, InvalidSchema, Limits, UnsupportedSchema, Vocabulary
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Both, Expressions, Without
from sgl_constrain.schema.compiling import json_schema, settled_basics
from sgl_constrain.schema.strings import FORMATS
from sgl_constrain.utf8 import Heads

HEADS = Heads()
BASICS = settled_basics(HEADS, 2, settled_basics(HEADS, 20))
_NAMED = {"a": {"type": "string", "maxLength": 3}, "b": {"type": "integer"}, "c": {"type": "integer"}}
_NONE = {"type": "string", "format": "date", "pattern": "^x"}  # no string is both
SCHEMAS: dict[str, Any] = {
    "any value": True,
    "an object": {"type": "object"},
    "keys in any number": {"type": "object", "properties": _NAMED, "required": ["b"]},
    "a closed object": {"type": "object", "properties": _NAMED, "additionalProperties": False},
    "counted keys": {"type": "object", "properties": _NAMED, "maxProperties": 2},
    "a key that can have no value": {"type": "object", "properties": {"a": {"not": {}}, "b": True}},
    "values of one type": {"type": "object", "additionalProperties": {"type": ["integer", "null"]}},
    "values that are not": {"type": "object", "additionalProperties": {"format": "date", "pattern": "^x"}},
    "one type twice": {"prefixItems": [{"type": "integer"}, {"type": "integer", "title": "again"}]},
    "recursion": {"$ref": "#/$defs/t", "$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}},
    **{name: {"type": "string", "format": name} for name in FORMATS},
    "a format and more": {"type": "string", "format": "email", "maxLength": 9, "pattern": "x"},
    "one kind of object that there is none of": {
        "anyOf": [
            {"type": "object", "properties": {"a": _NONE}, "required": ["a"]},
            {"type": "object", "properties": {"a": _NONE, "b": {"type": "integer"}}, "required": ["b"]},
            {"type": "array", "items": _NONE, "minItems": 1},
            {"type": "array", "prefixItems": [True, _NONE], "items": False},
            {"type": "boolean"},
        ]
    },
    "items that there are none of": {"type": "array", "items": {"type": "array", "items": _NONE}},
    "other keys that there are none of": {
        "properties": {"a": {"additionalProperties": _NONE}},
        "additionalProperties": _NONE,
        "type": "object",
    },
    "a recursion that does not end": {
        "$ref": "#/$defs/t",
        "$defs": {
            "t": {"type": "object", "properties": {"l": {"$ref": "#/$defs/t"}, "e": {"$ref": "#/$defs/e"}}},
            "e": {"type": "object", "properties": {"e": {"$ref": "#/$defs/e"}}, "required": ["e"]},
        },
    },
    "some certain and some in doubt": {
        "type": "object",
        "properties": {
            "s": {"type": "string", "pattern": "^[ab]+$", "maxLength": 3},
            "n": {"anyOf": [{"type": "number", "maximum": 3}, {"$ref": "#"}, {"enum": ["x", 1, []]}]},
            "o": {"type": "object", "minProperties": 1, "additionalProperties": {"minLength": 1}},
        },
        "required": ["n"],
    },
    "integers within bounds": {"type": "integer", "exclusiveMinimum": -2.5, "exclusiveMaximum": 12},
    "integers between integers": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 7},
}
_MOST_PAIRS = 600


def automata(schema: Any, *, any_order: bool) -> list[Automaton]:
    made = []
    for basics in (None, BASICS.copy(Limits())):
        expressions = Expressions(HEADS, Limits()) if basics is None else basics.expressions
        root, _ = json_schema(
            expressions, schema, max_whitespace=2, any_order=any_order, lenient=False, basics=basics
        )
        made.append(Automaton(expressions, root))
    return made


@pytest.mark.parametrize("any_order", [False, True])
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_a_copy_makes_the_same_language(schema: Any, any_order: bool) -> None:
    ours, fresh = automata(schema, any_order=any_order)
    pairs = {(ours.start, fresh.start)}
    pending = list(pairs)
    while pending and len(pairs) < _MOST_PAIRS:
        left, right = pending.pop(0)
        assert ours.accepts(left) == fresh.accepts(right)
        here, there = ours.moves(left), fresh.moves(right)
        assert sum(mask for mask, _ in here) == sum(mask for mask, _ in there)
        reached = {(a, b) for mask, a in here for other, b in there if mask & other}
        pending += sorted(reached - pairs)
        pairs |= reached


def test_every_part_of_what_is_copied_matches_something() -> None:
    expressions = BASICS.expressions
    decide = Automaton(expressions.copy(Limits()), 1)
    products = [node for node in expressions.nodes if isinstance(node, Both | Without)]
    assert products and not any(map(decide.is_empty, products))
    assert expressions.settled == len(expressions.nodes), "nothing was added by those who copied it"


def test_what_is_copied_does_not_count_towards_the_limit(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary, limits=Limits(expressions=60))
    assert compiler.json_schema({"type": "string"}).start
    with pytest.raises(GrammarTooLarge, match=r"Limits\.expressions"):
        compiler.json_schema({"properties": {f"k{i}": {"maxLength": i} for i in range(40)}})


def test_what_cannot_be_written_is_refused_when_compiling(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    names = {"propertyNames": {"pattern": r"(?<=a)b"}}
    for schema in (names, {**names, "additionalProperties": False}, {**names, "maxProperties": 0}):
        with pytest.raises(UnsupportedSchema, match="lookbehind"):
            compiler.json_schema({"type": "object", **schema})
    nothing = {"type": "string", "format": "date", "pattern": "^x"}
    with pytest.raises(InvalidSchema, match="no value"):
        compiler.json_schema({"type": "object", "properties": {"a": nothing}, "required": ["a"]})


def test_values_are_written_when_a_text_gets_there(vocabulary: Vocabulary) -> None:
    keys = {f"key{i}": {"type": "object", "properties": {"a": {"enum": [f"v{i}"]}}} for i in range(200)}
    grammar = Compiler(vocabulary).json_schema({"type": "object", "properties": keys})
    nodes = grammar._automaton.expressions.nodes
    grammar.mask(grammar.start)
    written = len(nodes)
    state = grammar.step_bytes(grammar.start, b'{"key7": ')
    assert written < grammar._automaton.expressions.settled + 8 * len(keys)
    assert len(nodes) < written + 200
    assert grammar.accepts(grammar.step_bytes(state, b'{"a": "v7"}, "key9": {}}'))
