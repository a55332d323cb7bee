# SPDX-License-Identifier: Apache-2.0
"""`PromptScores`: every position is asked for once, whatever the chunks."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sgl_runtime.messages import Logprobs
from sgl_runtime.scheduler.scores import PromptScores


@settings(derandomize=True, database=None, max_examples=200)
@given(
    st.integers(1, 12),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=8),
)
def test_each_position_is_asked_for_once(length: int, start: int, chunks: list[tuple[int, int]]) -> None:
    """Chunks of any size, and retractions after which the prefix cache has any part that may come from it."""
    start = min(start, length)
    prompt = np.arange(100, 100 + length, dtype=np.int32)
    scores = PromptScores(prompt, start, top=1)
    asked: list[int] = []
    begin = 0
    for size, cached in [*chunks, (length, 0), (length, 0)]:
        end = min(begin + size, length)
        positions = scores.ask(begin, end)
        scores.collect([(-float(position), [(position, 0.0)]) for position in positions])
        asked.extend(positions)
        begin = min(cached, end, scores.wanted)
    assert asked == list(range(max(start, 1) - 1, length - 1))
    first = [None] if start == 0 else []
    assert scores.logprobs() == Logprobs(
        prompt[start:].tolist(),
        first + [-float(position) for position in asked],
        [[] for _ in first] + [[(position, 0.0)] for position in asked],
    )


def test_a_prompt_that_was_cut_short_is_scored_as_far_as_it_came() -> None:
    scores = PromptScores(np.array([5, 6, 7, 8], np.int32), 0, top=0)
    scores.collect([(-1.0, []) for _ in scores.ask(0, 2)])
    assert scores.logprobs() == Logprobs([5, 6, 7], [None, -1.0, -1.0], [[], [], []])


def test_a_position_that_was_jumped_over_is_an_assertion() -> None:
    scores = PromptScores(np.array([5, 6, 7, 8], np.int32), 1, top=0)
    with pytest.raises(AssertionError, match="skipped"):
        scores.ask(2, 4)
