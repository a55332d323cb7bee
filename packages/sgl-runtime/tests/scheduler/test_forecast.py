# SPDX-License-Identifier: Apache-2.0
"""`Forecast` against counting: who of those that got so far went on for so much longer."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sgl_runtime.scheduler.forecast import Forecast

UNLIMITED = 1 << 20


def learnt(lengths: list[tuple[int, bool]], slots: int = 100_000) -> Forecast:
    forecast = Forecast(slots, 1.0)
    forecast._outputs.clear()  # the prior
    for length, by_itself in lengths:
        forecast.ended(length, by_itself=by_itself)
    return forecast


def survival(
    forecast: Forecast, generated: int, times: list[int], limit: int = UNLIMITED, certain: int = 0
) -> list[float]:
    columns = [np.array([number]) for number in (generated, limit, certain)]
    chances: list[float] = forecast.survival(columns[0], columns[1], columns[2], np.array(times))[0].tolist()
    return chances


@settings(derandomize=True, database=None, max_examples=200)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(0, 29), st.integers(0, 30))
def test_without_cuts_it_is_a_share_of_the_outputs(lengths: list[int], generated: int, more: int) -> None:
    reached = [length for length in lengths if length > generated]
    if reached:
        chance = survival(learnt([(length, True) for length in lengths]), generated, [more])[0]
        assert chance == pytest.approx(sum(length > generated + more for length in reached) / len(reached))


def test_cuts_count_for_what_they_show() -> None:
    """The worked example: of 5 that reach 3 one ends; two are cut at 4 and 5; of the 2 that reach 6 one ends
    there."""
    forecast = learnt([(3, True), (4, False), (5, False), (6, True), (9, True)])
    assert survival(forecast, 0, [2, 3, 5, 6, 8, 9]) == pytest.approx([1.0, 4 / 5, 4 / 5, 2 / 5, 2 / 5, 0.0])


def test_an_end_and_a_cut_at_one_length() -> None:
    """The one that was cut had survived that length, as the one that ended had not."""
    assert survival(learnt([(4, True), (4, False)]), 0, [3, 4]) == pytest.approx([1.0, 0.5])


def test_limits_and_what_is_certain() -> None:
    forecast = learnt([(3, True)] * 4)
    assert survival(forecast, 0, [0, 2, 3], limit=2) == [1.0, 0.0, 0.0]
    assert survival(forecast, 0, [2, 3, 7, 8], certain=8) == [1.0, 1.0, 1.0, 0.0]


def test_who_outlives_all_experience_is_expected_to_go_on_as_long_again() -> None:
    chances = survival(learnt([(10, True)] * 5, slots=16), 400, [0, 400, 800])
    assert chances == pytest.approx([1.0, np.exp(-1.0), np.exp(-2.0)])


def test_requests_cut_at_one_token_do_not_promise_endless_outputs() -> None:
    """Health checks generate one token each. They say nothing about an answer that may be long."""
    forecast = learnt([(1, False)] * 256)
    assert survival(forecast, 0, [1]) == [1.0]
    assert survival(forecast, 0, [2000])[0] < 1e-3


def test_it_learns_as_outputs_end() -> None:
    forecast = Forecast(100_000, 1.0)
    assert survival(forecast, 0, [100, 200]) == [1.0, 0.0]
    for _ in range(64):
        forecast.ended(1000, by_itself=True)
    assert survival(forecast, 0, [500])[0] == pytest.approx(64 / 72)


def test_a_retraction_makes_cautious_for_a_while() -> None:
    forecast = Forecast(1000, 1.0)
    for _ in range(20):
        forecast.retracted()
    assert forecast.margin == 5.0
    for _ in range(1000):
        forecast.stepped()
    assert forecast.margin == pytest.approx(1.0, abs=0.05)
