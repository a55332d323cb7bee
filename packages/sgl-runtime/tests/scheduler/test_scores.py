# SPDX-License-Identifier: Apache-2.0
"""`PromptScores`: every position is asked for once, whatever the chunks."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sgl_runtime.messages import Logprobs, LogprobSpec
from sgl_runtime.scheduler.scores import PromptScores


@settings(derandomize=True, database=None, max_examples=200)
@given(
    st.integers(1, 12),
    st.integers(0, 12),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=8),
    st.lists(st.integers(0, 50), max_size=3),
)
def test_each_position_is_asked_for_once(
    length: int, start: int, chunks: list[tuple[int, int]], after: list[int]
) -> None:
    """Chunks of any size, and retractions after which the prefix cache has any part that may come from it."""
    start = min(start, length)
    prompt = np.arange(100, 100 + length, dtype=np.int32)
    scores = PromptScores(prompt, LogprobSpec(start, top=1, after=tuple(after)))
    asked: list[tuple[int, int]] = []
    begin = 0
    for size, cached in [*chunks, (length, 0), (length, 0)]:
        end = min(begin + size, length)
        pairs = list(zip(*map(np.ndarray.tolist, scores.ask(begin, end)), strict=True))
        scores.collect([(-float(position), [(target, 0.0)]) for position, target in pairs])
        asked.extend(pairs)
        begin = min(cached, end, scores.wanted)
    inside = [(position, 101 + position) for position in range(max(start, 1) - 1, length - 1)]
    assert asked == inside + [(length - 1, token) for token in after]
    first = [None] if start == 0 else []
    assert scores.logprobs() == Logprobs(
        prompt[start:].tolist() + after,
        first + [-float(position) for position, _ in asked],
        [[] for _ in first] + [[(target, 0.0)] for _, target in asked],
    )


def test_a_prompt_that_was_cut_short_is_scored_as_far_as_it_came() -> None:
    scores = PromptScores(np.array([5, 6, 7, 8], np.int32), LogprobSpec(0, after=(9,)))
    scores.collect([(-1.0, []) for _ in scores.ask(0, 2).targets])
    assert scores.logprobs() == Logprobs([5, 6, 7], [None, -1.0, -1.0], [[], [], []])


def test_a_position_that_was_jumped_over_is_an_assertion() -> None:
    scores = PromptScores(np.array([5, 6, 7, 8], np.int32), LogprobSpec(1))
    with pytest.raises(AssertionError, match="skipped"):
        scores.ask(2, 4)
