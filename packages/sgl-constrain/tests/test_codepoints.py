# SPDX-License-Identifier: Apache-2.0
"""Sets of characters, against `re` over all of Unicode."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_constrain import codepoints
from sgl_constrain.codepoints import MAX, Ranges, complement, ignore_case, intersection, union

EVERY = [chr(point) for point in range(MAX + 1)]


def matched(pattern: str, flags: int = 0) -> set[int]:
    test = re.compile(pattern, flags).fullmatch
    return {point for point, character in enumerate(EVERY) if test(character)}


def points(ranges: Ranges) -> set[int]:
    return {point for low, high in ranges for point in range(low, high + 1)}


@pytest.mark.parametrize("escape", [r"\d", r"\w", r"\s"])
def test_named_sets_are_those_of_re(escape: str) -> None:
    assert points(codepoints.matching(escape)) == matched(escape)


@pytest.mark.parametrize(
    "inside",
    ["k", "s", "i", "İ", "ı", "ß", "Σ", "ς", "ǅ", "ͅ", "ᾀ", "ﬅ", "a-z", "A-Z", "α-ω", "\u0100-\u0200"],
)
def test_ignoring_case_is_that_of_re(inside: str) -> None:
    given_points = ((ord(inside[0]), ord(inside[-1])),)
    assert points(ignore_case(given_points, ascii_only=False)) == matched(f"[{inside}]", re.IGNORECASE)


@pytest.mark.parametrize("inside", ["k", "a-z", "5-é"])
def test_ignoring_case_in_ascii_is_that_of_re(inside: str) -> None:
    given_points = ((ord(inside[0]), ord(inside[-1])),)
    assert points(ignore_case(given_points, ascii_only=True)) == matched(f"[{inside}]", re.I | re.A)


def test_categories_partition_unicode() -> None:
    letters, upper = codepoints.category("L"), codepoints.category("Lu")
    assert letters is not None and upper is not None
    assert intersection(letters, upper) == upper
    assert points(upper) >= set(range(ord("A"), ord("Z") + 1))
    assert codepoints.category("Xx") is None


RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)).map(lambda p: (p[0], p[0] + p[1]))).map(
    union
)


@given(RANGES, RANGES)
def test_ranges_are_a_boolean_algebra(left: Ranges, right: Ranges) -> None:
    assert points(union([*left, *right])) == points(left) | points(right)
    assert points(intersection(left, right)) == points(left) & points(right)
    assert complement(complement(left)) == left
    assert intersection(left, complement(left)) == ()
