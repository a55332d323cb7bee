# SPDX-License-Identifier: Apache-2.0
"""Figures of hand-made outcomes, against numbers worked out by hand and against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sgl_runtime.bench.client import Outcome, merge
from sgl_runtime.bench.measure import describe, measure
from sgl_runtime.errors import EngineDied


def outcome(start: float, stamps: list[float], end: float, tokens: int, *, prompt: int = 10) -> Outcome:
    return Outcome(tokens, start, end, stamps, prompt_tokens=prompt, output_tokens=tokens)


def test_latencies_are_of_one_request_and_throughputs_of_all() -> None:
    # Two at once: tokens at 1, 2, 4 s after asking; and at 3, 3.5 s, the second with two tokens.
    figures = measure(
        [outcome(10, [11, 12, 14], 14.5, 3), outcome(10.5, [13.5, 14], 14, 3), Outcome(5, 0, 99, error="no")],
        None,
    )
    row = figures.row
    assert (row["completed"], row["failed"], row["first_error"]) == (2, 1, "no")
    assert row["duration"] == 4.5, "what failed has no part in it"
    assert row["output_throughput"] == pytest.approx(6 / 4.5)
    assert row["total_throughput"] == pytest.approx(26 / 4.5)
    assert row["concurrency"] == pytest.approx((4.5 + 3.5) / 4.5)
    assert figures.latencies == {
        "e2e_latency": [4500.0, 3500.0],
        "ttft": [1000.0, 3000.0],
        "tpot": [1500.0, 250.0],
        "itl": [1000.0, 2000.0, 500.0],
    }
    assert row["mean_ttft_ms"] == 2000.0 and row["median_itl_ms"] == 1000.0
    assert row["p99_itl_ms"] == pytest.approx(np.percentile([500, 1000, 2000], 99))
    assert row["mean_output_speed_per_request"] == pytest.approx((1000 / 1500 + 4) / 2)
    text = describe("a run", row)
    assert text.index("all requests together") < text.index("one request") and "1 failed: no" in text


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    row = measure([outcome(0, [1], 1, 1)], None).row
    assert row["median_tpot_ms"] is row["median_output_speed_per_request"] is None
    assert "-" in describe("x", row)


def test_what_nobody_counts_is_not_made_up() -> None:
    with pytest.raises(EngineDied, match="--tokenizer"):
        measure([Outcome(5, 0, 1, [0.5])], None)
    with pytest.raises(EngineDied, match="none of 2 requests was answered; the first: refused"):
        measure([Outcome(5, error="refused"), Outcome(5, error="too")], None)


def test_bodies_are_merged_object_by_object() -> None:
    below = {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
    assert merge(below, {"b": {"d": 4}, "e": [2], "f": None}) == {
        "a": 1, "b": {"c": 2, "d": 4}, "e": [2], "f": None,
    }  # fmt: skip
    assert below == {"a": 1, "b": {"c": 2, "d": 3}, "e": [1]}
