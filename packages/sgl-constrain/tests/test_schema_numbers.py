# SPDX-License-Identifier: Apache-2.0
"""Bounds and divisors of numbers: nothing is written that no number satisfies, and all is exact, however many
digits it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain import Compiler, Grammar, UnsupportedSchema
from sgl_constrain.automaton import judge
from sgl_constrain.expression import FAIL, Expressions
from sgl_constrain.limits import DEFAULT_LIMITS
from sgl_constrain.prune import prune
from sgl_constrain.schema.numbers import NumberTexts, has_number
from sgl_constrain.utf8 import Heads

BOUNDS = st.one_of(
    st.none(),
    st.integers(-12, 12).map(Decimal),
    st.decimals(-3, 3, places=1, allow_nan=False),
    st.sampled_from([Decimal("-1e-30"), Decimal("1.0"), Decimal("1e3"), Decimal("999.5")]),
)


@given(BOUNDS, st.booleans(), BOUNDS, st.booleans(), st.sampled_from((None, True, False)))
def test_texts_within_bounds_have_no_empty_part(
    low: Decimal | None, low_open: bool, high: Decimal | None, high_open: bool, integer: bool | None
) -> None:
    expressions = Expressions(Heads(), DEFAULT_LIMITS)
    texts = NumberTexts(expressions).within(low, low_open, high, high_open, integer=integer)
    assert (texts != FAIL) == has_number(low, low_open, high, high_open, integer=integer)
    with judge(expressions) as is_empty:
        assert prune(expressions, texts, is_empty) == texts


def test_just_the_whole_numbers_within_bounds(
    compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    rng = random.Random(2)
    for _ in range(60):
        top = rng.choice((12, 150, 70_000))
        low, high = rng.randint(-top, top) + rng.choice((0, 0.5)), rng.randint(-top, top)
        schema: dict[str, object] = {"type": "integer", "exclusiveMinimum": low}
        if high > low + 1:
            schema["maximum"] = high
        grammar = compiler.json_schema(schema)
        near = [int(bound) + i for bound in (low, high) for i in range(-3, 4)]
        for value in {
            *near,
            *range(-2, 12),
            *(rng.randint(-2 * top, 2 * top) for _ in range(20)),
            99,
            100,
            9999,
        }:
            within = value > low and (value <= high or "maximum" not in schema)
            assert accepts(grammar, str(value)) == within, (schema, value)
            assert not accepts(grammar, f"0{value}") and not accepts(grammar, f"{value}.0")


LARGE = 10**40  # two more is a multiple of 3
FINE = f"1.{'0' * 31}1"  # more digits than decimals are usually worked out to


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        (f'{{"type": "integer", "minimum": {LARGE}, "maximum": {LARGE + 5}, "multipleOf": 3}}', 2, 1),
        (f'{{"type": "integer", "minimum": {LARGE + 1}, "maximum": {LARGE + 3}}}', 3, 0),
        (f'{{"oneOf": [{{"multipleOf": 3}}, {{"const": {LARGE + 1}}}]}}', 1, 0),
    ],
)
def test_large_numbers(
    schema: str, valid: int, invalid: int, compiler: Compiler, accepts: Callable[[Grammar, str], bool]
) -> None:
    grammar = compiler.json_schema(schema)
    assert accepts(grammar, str(LARGE + valid)) and not accepts(grammar, str(LARGE + invalid))


def test_numbers_of_many_digits(compiler: Compiler, accepts: Callable[[Grammar, str], bool]) -> None:
    below = compiler.json_schema(f'{{"type": "number", "minimum": -{FINE}}}')
    assert accepts(below, f"-{FINE}") and accepts(below, f"-1.{'0' * 32}1")
    assert not accepts(below, f"-{FINE[:-1]}2")
    small = compiler.json_schema('{"type": "integer", "minimum": 1, "maximum": 2, "multipleOf": 1e-30}')
    assert accepts(small, "1") and not accepts(small, "3")
    other = f'{{"type": "integer", "minimum": 0, "maximum": 9, "not": {{"multipleOf": {FINE}}}}}'
    assert accepts(compiler.json_schema(other), "1") and not accepts(compiler.json_schema(other), "0")
    with pytest.raises(UnsupportedSchema, match=f"dividing by {FINE}"):
        compiler.json_schema(f'{{"type": "number", "multipleOf": {FINE}}}')
