# SPDX-License-Identifier: Apache-2.0
"""`Admission`, and what it is for: throughput with little memory, played through with answers of given
lengths."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import pytest

from sgl_runtime.cache.prefix import NoCache
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import Aborted, Capacity, Generate, Result, Sampling
from sgl_runtime.scheduler.scheduler import Scheduler

PROMPT = 20


@dataclass
class Outcome:
    decode_steps: int
    recomputed: int  # tokens computed again after retractions, or never found in the cache
    retractions: int
    most_running: int
    tokens: list[int]  # per decode step


def play(
    lengths: list[int],
    limits: list[int],
    *,
    slots: int,
    ignore_eos: bool = False,
    rows: int = 256,
    radix: bool = True,
) -> Outcome:
    """Serve requests that end by themselves after `lengths` tokens; the seed tells the fake model when."""
    capacity = Capacity(slots=slots, rows=rows, context_length=1 << 17, vocab_size=1 << 17)
    scheduler = Scheduler(capacity, RadixCache() if radix else NoCache(), eos=[0])
    rng = np.random.default_rng(0)
    for index, (length, limit) in enumerate(zip(lengths, limits, strict=True)):
        sampling = Sampling(max_new_tokens=limit, seed=length, ignore_eos=ignore_eos)
        scheduler.add(Generate(f"r{index}", rng.integers(1, 1 << 17, PROMPT).tolist(), sampling))
    outcome = Outcome(0, -PROMPT * len(lengths), 0, 0, [])
    flying: deque[Result] = deque()
    while not scheduler.idle:
        batch = scheduler.plan()
        assert batch is not None
        outcome.most_running = max(outcome.most_running, scheduler.load.running)
        if len(batch.tokens) == len(batch.sampled):
            outcome.decode_steps += 1
            outcome.tokens.append(len(batch.tokens))
        else:
            outcome.recomputed += len(batch.tokens)
        sampling_arrays = batch.sampling
        ends = sampling_arrays.steps + 1 >= sampling_arrays.seeds
        flying.append(Result(np.where(ends, 0, 7).astype(np.int32)))
        for delta in scheduler.commit(flying.popleft()):
            assert not isinstance(delta.finish, Aborted), delta.finish
    outcome.retractions = scheduler.load.retractions
    return outcome


def least_steps(lengths: list[int], slots: int) -> float:
    """No schedule is faster: slots times steps that the outputs occupy, over the slots there are."""
    return sum(PROMPT * length + length * length / 2 for length in lengths) / slots


def test_known_lengths_are_packed_without_a_retraction() -> None:
    lengths = np.random.default_rng(1).integers(1, 500, 600).tolist()
    outcome = play(lengths, lengths, slots=20_000, ignore_eos=True)
    assert outcome.retractions == 0
    assert outcome.decode_steps < 1.35 * least_steps(lengths, 20_000), "but not by leaving memory empty"


@pytest.mark.parametrize("limit", [1_000, 100_000])
@pytest.mark.parametrize("radix", [True, False])
def test_unknown_lengths_use_most_of_the_memory_and_compute_little_twice(limit: int, radix: bool) -> None:
    lengths = (np.random.default_rng(2).exponential(200, 800).astype(int) + 1).clip(max=999).tolist()
    outcome = play(lengths, [limit] * 800, slots=20_000, radix=radix)
    generated = np.cumsum(outcome.tokens)
    most_of_them = int(
        np.searchsorted(generated, 0.85 * generated[-1])
    )  # then the longest remain, few and alone
    assert most_of_them < 1.15 * 0.85 * least_steps(lengths, 20_000)
    assert outcome.recomputed < 0.25 * (sum(lengths) + 800 * PROMPT)


def test_throughput_does_not_collapse_after_retractions() -> None:
    """Short answers, and then suddenly long ones: far too many are admitted and many retracted. From then on
    every stretch of 100 steps must bring at least half of the tokens that the memory allows on average."""
    lengths = [20] * 200 + [400] * 400
    outcome = play(lengths, [1_000] * 600, slots=20_000)
    assert outcome.retractions > 20
    possible = 20_000 / (PROMPT + 400)  # all of them as large as they get
    stretches = [
        float(np.mean(outcome.tokens[start : start + 100])) for start in range(0, len(outcome.tokens), 100)
    ]
    assert min(stretches[:-4]) > 0.5 * possible, stretches
    assert outcome.recomputed < 0.25 * sum(lengths)
    assert outcome.decode_steps < 1.9 * least_steps(lengths, 20_000)


def test_large_limits_do_not_prevent_concurrency() -> None:
    outcome = play([100] * 4, [100_000] * 4, slots=1_024)
    assert outcome.most_running == 4
    assert outcome.retractions == 0


def test_a_few_requests_run_together_even_if_they_will_certainly_not_fit() -> None:
    """Four answers of 900 tokens in 1,024 slots: one after the other takes 3,600 steps; starting together and
    being retracted, less, for a step of four takes no longer than a step of one."""
    outcome = play([900] * 4, [900] * 4, slots=1_024, ignore_eos=True)
    assert outcome.most_running == 4
    assert outcome.decode_steps < 2_800
    assert outcome.retractions < 10
