# SPDX-License-Identifier: Apache-2.0
"""From logits to tokens as numpy would do it; rows do not notice each other; a row of NaN gets no token."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from driver import sampling
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.messages import History, SamplingArrays
from sgl_runtime.runner.sampler import Sampler

CPU = torch.device("cpu")
VOCABULARY = 23


def rows(*numbers: int) -> Any:
    return np.array(numbers, np.int32)


def history(row: int, prompt: list[int], output: list[int]) -> History:
    return History(row, np.array(prompt, np.int32), np.array(output, np.int32))


def choose(
    logits: torch.Tensor, arrays: SamplingArrays, sampler: Sampler | None = None, at: Any = None
) -> list[int]:
    sampler = sampler if sampler is not None else Sampler(VOCABULARY, CPU)
    sampler.begin(arrays)
    before = logits.clone()
    tokens = sampler(logits, at if at is not None else rows(*range(len(logits))), arrays)
    assert tokens.dtype == torch.int32
    assert torch.equal(logits.nan_to_num(7), before.nan_to_num(7)), "log-probabilities are of the raw logits"
    return [int(token) for token in tokens]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy(dtype: torch.dtype) -> None:
    logits = torch.randn(5, VOCABULARY).to(dtype)
    assert choose(logits, sampling(5)) == logits.argmax(-1).tolist()


BROKEN = {
    "a NaN": lambda row: row.index_fill_(0, torch.tensor([4]), float("nan")),
    "all NaN": lambda row: row.fill_(float("nan")),
    "an infinity": lambda row: row.index_fill_(0, torch.tensor([4]), float("inf")),
    "nothing left": lambda row: row.fill_(float("-inf")),
}


@pytest.mark.parametrize("broken", sorted(BROKEN))
@pytest.mark.parametrize(
    "arrays",
    [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3, "top_p": 0.9}, {"presence_penalty": 0.5}],
    ids=["greedy", "temperature", "top-k", "penalty"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_without_a_valid_token_gets_none(
    broken: str, arrays: dict[str, Any], dtype: torch.dtype
) -> None:
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1)).to(dtype)
    histories = tuple(history(row, [1, 2], [3]) for row in range(3))
    expected = choose(logits, sampling(3, seeds=5, histories=histories, **arrays))
    BROKEN[broken](logits[1])
    assert choose(logits, sampling(3, seeds=5, histories=histories, **arrays)) == [
        expected[0],
        -1,
        expected[2],
    ]


def test_bias_is_added_and_minus_infinity_forbids() -> None:
    logits = torch.zeros(3, VOCABULARY)
    logits[:, 7] = 1.0
    arrays = sampling(
        3,
        bias_rows=rows(0, 1, 1, 2, 2),
        bias_tokens=rows(4, 7, 9, 4, 4),
        bias_values=np.array([1.5, -np.inf, 0.1, 0.6, 0.6], np.float32),
    )
    assert choose(logits, arrays) == [4, 9, 4], "and twice is twice"


def test_a_temperature_near_zero_is_greedy_and_a_high_one_is_not() -> None:
    logits = torch.randn(1, VOCABULARY).repeat(200, 1)
    steps = np.arange(200)
    cold = choose(logits, sampling(200, temperature=0.01, steps=steps))
    hot = choose(logits, sampling(200, temperature=50.0, steps=steps))
    assert set(cold) == {int(logits[0].argmax())}
    assert len(set(hot)) > VOCABULARY // 2


def test_a_token_does_not_depend_on_the_batch_around_it() -> None:
    logits = torch.randn(6, VOCABULARY)
    arrays = {
        "temperature": np.array([1.0, 0.0, 2.0, 0.5, 1.0, 1.3], np.float32),
        "top_k": np.array([-1, 5, 3, -1, 7, -1], np.int32),
        "top_p": np.array([1.0, 1.0, 0.8, 1.0, 1.0, 0.5], np.float32),
        "min_p": np.array([0.0, 0.0, 0.0, 0.1, 0.0, 0.0], np.float32),
        "seeds": np.array([3, 2**62, 2**40 + 1, 0, 8, 9], np.int64),
        "steps": np.array([0, 1, 2, 3, 4, 5], np.int32),
    }
    together = choose(logits, sampling(6, **arrays))
    alone = [
        choose(logits[i : i + 1], sampling(1, **{name: values[i] for name, values in arrays.items()}))[0]
        for i in range(6)
    ]
    assert together == alone


@settings(deadline=None, max_examples=40)
@given(
    prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    output=st.lists(st.integers(0, VOCABULARY - 1), max_size=8),
    frequency=st.sampled_from([0.0, 0.7, -0.4]),
    presence=st.sampled_from([0.0, 1.1, -0.6]),
    repetition=st.sampled_from([1.0, 1.5, 0.6]),
    seed=st.integers(0, 99),
)
def test_penalties_count_what_was_said(
    prompt: list[int], output: list[int], frequency: float, presence: float, repetition: float, seed: int
) -> None:
    """Thirty greedy steps of two requests against counting in numpy; the second has other strengths, a
    third none."""
    logits = np.random.default_rng(seed).normal(size=(3, VOCABULARY)).round(3)
    strengths = [(frequency, presence, repetition), (0.3, 0.2, 1.1), (0.0, 0.0, 1.0)]
    said = [list(output), [], []]
    asked = [prompt, [5, 5, 6], [1]]
    at = rows(7, 2, 4)
    sampler = Sampler(VOCABULARY, CPU)
    histories = tuple(history(int(at[i]), asked[i], said[i]) for i in range(2))
    for step in range(30):
        arrays = sampling(
            3,
            frequency_penalty=[each[0] for each in strengths],
            presence_penalty=[each[1] for each in strengths],
            repetition_penalty=[each[2] for each in strengths],
            histories=histories if step == 0 else (),
        )
        expected = []
        for i in range(3):
            row = logits[i].copy()
            f, p, r = strengths[i]
            for token in range(VOCABULARY):
                count = said[i].count(token)
                if count or token in asked[i]:
                    row[token] = row[token] / r if row[token] > 0 else row[token] * r
                row[token] -= f * count + p * (count > 0)
            best = np.sort(row)[-2:]
            if best[1] - best[0] < 1e-4:
                return  # too close to call in float32
            expected.append(int(row.argmax()))
        assert choose(torch.from_numpy(logits).float(), arrays, sampler, at) == expected
        for tokens, token in zip(said, expected, strict=True):
            tokens.append(token)


def test_a_new_request_in_a_row_starts_from_its_own_history() -> None:
    logits = torch.zeros(1, VOCABULARY)
    logits[0, 3], logits[0, 4] = 1.0, 0.9
    sampler = Sampler(VOCABULARY, CPU)
    first = sampling(1, presence_penalty=0.5, histories=(history(0, [], []),))
    assert choose(logits, first, sampler) == [3]
    assert choose(logits, sampling(1, presence_penalty=0.5), sampler) == [4]
    assert choose(logits, first, sampler) == [3]
    resumed = sampling(1, presence_penalty=0.5, histories=(history(0, [], [3]),))
    assert choose(logits, resumed, sampler) == [4]


def test_no_token_is_not_counted() -> None:
    logits = torch.full((1, VOCABULARY), float("nan"))
    sampler = Sampler(VOCABULARY, CPU)
    assert choose(logits, sampling(1, presence_penalty=0.5, histories=(history(0, [], []),)), sampler) == [-1]
    logits = torch.zeros(1, VOCABULARY)
    logits[0, [0, VOCABULARY - 1]] = 0.1
    assert choose(logits, sampling(1, presence_penalty=0.5), sampler) == [0]


def test_more_rows_than_the_first_memory_holds() -> None:
    sampler = Sampler(VOCABULARY, CPU)
    histories = tuple(history(row, [], [row]) for row in range(11))
    logits = torch.zeros(11, VOCABULARY)
    for row in range(11):
        logits[row, row], logits[row, 20] = 1.0, 0.5
    assert choose(logits, sampling(11, frequency_penalty=1.0, histories=histories), sampler) == [20] * 11
