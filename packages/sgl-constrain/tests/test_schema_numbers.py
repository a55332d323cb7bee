# SPDX-License-Identifier: Apache-2.0
"""Bounds of numbers, as texts: nothing is written that no number satisfies."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

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
    assert prune(expressions, texts, judge(expressions)) == texts
