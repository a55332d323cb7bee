# SPDX-License-Identifier: Apache-2.0
"""Patterns and schemas made to exhaust a machine, or to break what reads them: each ends in a grammar of
bounded size or in an error that says why. Sizes are counted, not timed; only that there is a limit on time is
tested with a clock.
"""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sgl_constrain import (
    Compiler,
    ConstrainError,
    GrammarTooLarge,
    InvalidPattern,
    InvalidSchema,
    Limits,
    UnsupportedPattern,
    UnsupportedSchema,
    Vocabulary,
)
from sgl_constrain.automaton import Automaton
from sgl_constrain.expression import Expressions
from sgl_constrain.regex import Dialect, regex
from sgl_constrain.schema.compiling import json_schema, parse_schema
from sgl_constrain.states import DEAD
from sgl_constrain.utf8 import Heads

HEADS = Heads()
PATIENT = Limits(seconds=120)


def of_pattern(pattern: str, limits: Limits = PATIENT) -> Automaton:
    expressions = Expressions(HEADS, limits)
    return Automaton(expressions, regex(expressions, pattern))


def of_schema(schema: Any, limits: Limits = PATIENT, any_order: bool = False) -> Automaton:
    expressions = Expressions(HEADS, limits)
    parsed, _ = parse_schema(schema, most_chars=limits.source_chars)
    root, warnings = json_schema(expressions, parsed, max_whitespace=1, any_order=any_order, lenient=False)
    assert warnings == ()
    return Automaton(expressions, root)


def accepts(automaton: Automaton, text: str) -> bool:
    state = automaton.start
    for byte in text.encode():
        state = next((target for mask, target in automaton.moves(state) if mask >> byte & 1), DEAD)
    return automaton.accepts(state)


# -- patterns ------------------------------------------------------------------------------------------------

CITIES = [f"city number {n * 7919 % 100_003}" for n in range(5000)]
SEVEN = next(city for city in CITIES if city.endswith("7"))


@pytest.mark.parametrize(
    ("pattern", "good", "bad", "states", "nodes"),
    [
        ("(a|b)*a(a|b){14}", "ab" * 40 + "a" + "b" * 14, "b" * 99, 500, 200),
        ("(a?){30}a{30}", "a" * 60, "a" * 61, 200, 200),
        (".{0,100000}", "x" * 2000, "x\n", 20_000, 3000),
        ("((((a{0,9}){0,9}){0,9}){0,9}){0,9}b", "a" * 500 + "b", "a" * 500, 1100, 2100),
        ("(((a{9,99}b?){9,99}c?){9,99}d?){1,9}", "a" * 9**3, "a" * 9, 9000, 12_000),
        ("(x+x+)+y", "x" * 500 + "y", "x" * 500, 100, 100),
        ("(.*.*.*.*)*=.*", "x" * 300 + "=" + "x" * 300, "x" * 600, 100, 100),
        ("(a|a|ab|b)*c", "ab" * 300 + "c", "ab" * 300, 100, 100),
        ("|".join(CITIES), CITIES[4999], CITIES[4999] + "x", 200, 6000),
        (f"({'|'.join(CITIES)})+", CITIES[1] + CITIES[2], "city number", 300, 6000),
        ("(" * 79 + "a" + ")*" * 79, "a" * 100, "b", 100, 300),
        ("a" * 20_000, "a" * 20_000, "a", 20_100, 20_100),
        ("[" + "".join(chr(0x4E00 + 2 * i) for i in range(9000)) + "]{2}", "一丂", "丁丁", 200, 200),
        (r"(?=.*1)(?=.*2)(?=.*3)(?=.*4).{4,60}", "x4321", "x432", 9000, 600),
        (r"(?!.*(ab){3,30}c)[abc]{0,500}", "abab" * 20, "ababab" + "c", 9000, 9000),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_patterns_stay_small(pattern: str, good: str, bad: str, states: int, nodes: int) -> None:
    automaton = of_pattern(pattern)
    assert accepts(automaton, good) and not accepts(automaton, bad)
    assert len(automaton.states) < states and len(automaton.expressions.nodes) < nodes


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [
        ("(" * 500 + ")" * 500, "nesting"),
        ("(?:" * 100_000, "nesting"),
        ("^" * 500 + "a", "nesting"),
        ("(?=a)" * 500 + "a", "nesting"),
        ("a" * 2_000_001, "source_chars"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_patterns_that_are_too_large(pattern: str, limit: str) -> None:
    with pytest.raises(GrammarTooLarge) as caught:
        of_pattern(pattern)
    assert caught.value.limit == limit


def test_a_language_that_grows_without_bound_stops_at_a_limit() -> None:
    automaton = of_pattern(
        "(.{0,400}a.{0,400}b){0,400}", Limits(states=2000, expressions=20_000, seconds=120)
    )
    with pytest.raises(GrammarTooLarge) as caught:
        accepts(automaton, "abba" * 3000)
    assert caught.value.limit in ("states", "expressions")
    assert accepts(automaton, "ab"), "what was made before stays usable"


_TOO_MANY_DIGITS = pytest.param(f"a{{1,{'9' * 5000}}}", id="more digits than Python reads")


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        "a{2,1}",
        "[z-a]",
        "*",
        "(?P<n>a)(?P<n>b)",
        "\\",
        r"\u12",
        "a{99999999999}",
        _TOO_MANY_DIGITS,
        "(?",
        "x**",
    ],
)
def test_what_is_no_pattern_names_the_place(pattern: str) -> None:
    with pytest.raises(InvalidPattern) as caught:
        of_pattern(pattern)
    assert caught.value.position is not None and not isinstance(caught.value, UnsupportedPattern)


def test_nul_and_surrogates_in_patterns() -> None:
    assert accepts(of_pattern("\x00+"), "\x00\x00") and accepts(of_pattern(r"\0[\x00-\x01]"), "\x00\x01")
    assert accepts(of_pattern("[^a]"), "\x00")
    for pattern in ("\ud800", r"\udfff", "[\ud800-\udfff]+", "a\udc00b", "\ud83d\ude00"):
        assert of_pattern(pattern).start == DEAD, "text has no lone surrogates"
    assert accepts(of_pattern("\ud800|[\udcff-\ue000]"), "\ue000")
    expressions = Expressions(HEADS, PATIENT)
    pair = Automaton(expressions, regex(expressions, r"\ud83d\ude00", dialect=Dialect.ECMA))
    assert accepts(pair, "😀")


# -- schemas -------------------------------------------------------------------------------------------------


def chain(length: int, link: Any) -> dict[str, Any]:
    """Definitions that each refer to the next one through `link`."""
    definitions = {f"d{i}": link({"$ref": f"#/$defs/d{i + 1}"}) for i in range(length)}
    return {"$ref": "#/$defs/d0", "$defs": {**definitions, f"d{length}": {"type": "null"}}}


WIDE = {f"property {i}": {"type": ["integer", "string"], "description": "x" * 300} for i in range(3000)}
OPTIONAL = {f"p{i}": {"type": "integer"} for i in range(200)}


@pytest.mark.parametrize(
    ("schema", "good", "bad", "nodes"),
    [
        ({"type": "object", "properties": WIDE}, '{"property 2999": 1}', '{"property 2999": null}', 40_000),
        (chain(3000, lambda ref: ref), "null", "1", 200),
        (chain(3000, lambda ref: {"properties": {"a": ref}}), '{"a": {"a": {"a": 1}}}', "{1}", 200_000),
        (chain(79, lambda ref: {"allOf": [ref]}), "null", "1", 200),
        ({"enum": CITIES}, json.dumps(CITIES[77]), '"city"', 600),
        ({"enum": CITIES, "pattern": "7$"}, json.dumps(SEVEN), json.dumps(CITIES[1]), 600),
        ({"type": "string", "minLength": 10, "maxLength": 10**6}, '"' + "x" * 99 + '"', '"x"', 1000),
        ({"items": {"const": 1}, "minItems": 3, "maxItems": 10**9}, "[1,1,1,1]", "[1,1]", 200),
        ({"type": "integer", "minimum": -(10**300), "maximum": 10**300}, str(10**299), str(10**301), 9000),
        ({"anyOf": [{"const": i} for i in range(1500)]}, "1499", "1500", 20_000),
        ({"oneOf": [{"properties": {"k": {"const": i}}, "required": ["k"]} for i in range(40)]}, '{"k": 39}',
         '{"k": 40}', 9000),
        ({"properties": OPTIONAL, "minProperties": 20, "maxProperties": 30, "additionalProperties": False},
         json.dumps(dict.fromkeys(list(OPTIONAL)[::9], 1)), '{"p1": 1}', 60_000),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/b"}, "type": "array"},
                                         "b": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/c"}]},
                                         "c": {"properties": {"c": {"$ref": "#"}}, "type": "object"}}},
         "[" * 50 + '{"c": []}' + "]" * 50, "[1]", 300),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_schemas_stay_small(schema: Any, good: str, bad: str, nodes: int) -> None:
    automaton = of_schema(schema)
    assert accepts(automaton, good) and not accepts(automaton, bad)
    assert len(automaton.expressions.nodes) < nodes


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "limit"),
    [
        (nested(500), "nesting"),
        ('{"items":' * 100_000 + "{}" + "}" * 100_000, "nesting"),
        ("[" * 1_000_000, "nesting"),
        ({"description": "x" * 3_000_000}, "source_chars"),
        (chain(500, lambda ref: {"allOf": [ref]}), "nesting"),
        (chain(500, lambda ref: {"not": ref}), "nesting"),
        (chain(500, lambda ref: {"oneOf": [ref, {"type": "string"}]}), "nesting"),
        (chain(500, lambda ref: {"if": ref, "then": False}), "nesting"),
        (chain(500, lambda ref: {"dependentSchemas": {"a": ref}, "unevaluatedItems": False}), "nesting"),
        ({"allOf": [{"anyOf": [{"required": [f"{c}{i}"]} for c in "ab"]} for i in range(60)]}, "expressions"),
        ({"allOf": [{"not": {"maxItems": i, "contains": {"const": i}}} for i in range(60)]}, "expressions"),
        ({"anyOf": [{"required": [f"a{i}"]} for i in range(60)], "unevaluatedItems": False}, "expressions"),
        ({"patternProperties": {f"p{i}": {"const": i} for i in range(40)}}, "expressions"),
        ({"contains": {"const": 1}, "minContains": 10**6}, "states"),
        ({"properties": OPTIONAL, "maxProperties": 150, "additionalProperties": False}, "expressions"),
        ({"enum": [10**500]}, None),
        ({"pattern": "(" * 500}, "nesting"),
        ({"pattern": "(a|b){1,99}" * 99 + "(?=x)" * 99}, "nesting"),
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_schemas_that_are_too_large_say_of_what(schema: Any, limit: str | None) -> None:
    with pytest.raises(ConstrainError) as caught:
        of_schema(schema)
    assert getattr(caught.value, "limit", None) == limit
    assert "Limits." in str(caught.value) or limit is None


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"allOf": [{"$ref": "#"}]},
        {"anyOf": [{"type": "null"}, {"not": {"$ref": "#"}}]},
        {"if": {"$ref": "#/else"}, "else": {"if": {"$ref": "#"}, "then": False}},
        {"$dynamicAnchor": "a", "$dynamicRef": "#a"},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    ],
    ids=lambda value: repr(value)[:40],
)
def test_circles_without_an_end_are_invalid(schema: Any) -> None:
    compiler = Compiler(Vocabulary([bytes([b]) for b in range(256)], eos=[]), limits=PATIENT)
    with pytest.raises(InvalidSchema, match=r"itself|no value"):
        compiler.json_schema(schema)


def test_nul_and_surrogates_in_schemas() -> None:
    assert accepts(of_schema({"const": "a\0b"}), r'"a\u0000b"')
    assert accepts(of_schema({"type": "string", "pattern": "^\0$"}), r'"\u0000"')
    assert accepts(of_schema({"type": "object", "required": ["\0"]}), r'{"\u0000": 1}')
    assert accepts(of_schema({"const": "\ud800"}), r'"\ud800"'), "JSON can write what UTF-8 cannot"
    assert of_schema({"type": "string", "pattern": "\ud800"}).start == DEAD
    assert accepts(of_schema({"enum": ["\ud83d\ude00"]}), '"😀"'), "as JSON text, two halves are a character"


def test_a_limit_on_time_ends_what_no_other_limit_ends() -> None:
    limits = Limits(seconds=0.3)
    factors = {"type": "integer", "allOf": [{"multipleOf": factor} for factor in (997, 991, 983, 977)]}
    with pytest.raises(GrammarTooLarge) as caught:
        of_schema(factors, limits)
    assert caught.value.limit in ("seconds", "states")


@pytest.mark.parametrize(
    "text", ["{", "nul", "\0", "", "[1]", "3", '"x"', "{]}", '{"a":NaN}', "\ud800", "{} {}"]
)
def test_what_is_no_schema_is_invalid(text: str) -> None:
    with pytest.raises(InvalidSchema) as caught:
        of_schema(text)
    assert not isinstance(caught.value, UnsupportedSchema)


def test_memory_is_that_of_what_is_used(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary, limits=PATIENT).regex(".{0,100000}")
    grammar.warm(["x" * 500], seconds=60)
    assert grammar.nbytes < 2_000_000


def test_what_all_states_hold_together_is_limited(vocabulary: Vocabulary) -> None:
    grammar = Compiler(vocabulary, limits=Limits(states=400)).regex(r"(?s).*a.{3900}x")
    rng, state = random.Random(1), grammar.start
    with pytest.raises(GrammarTooLarge, match="items in all") as caught:
        for _ in range(399):  # fewer steps than states are allowed
            state = grammar.step_bytes(state, rng.choice([b"a", b"b", b"b"]))
    assert caught.value.limit == "states"
    assert grammar.nbytes < 10 << 20
