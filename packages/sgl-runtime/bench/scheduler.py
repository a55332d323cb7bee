# SPDX-License-Identifier: Apache-2.0
"""What the scheduler costs per step: `python packages/sgl-runtime/bench/scheduler.py`. No model, no torch.

Decode steps with stop strings absent and present, with and without overlap; steps that compute a newcomer's
prompt, alone or beside those that decode; the admission of many newcomers; the waiting line. Each number is
the median over many steps, in milliseconds of CPU time: what a step must hide behind the device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import Batch, Capacity, Generate, Result, Sampling
from sgl_runtime.scheduler.scheduler import Scheduler

PROMPT = 512
VOCABULARY = [b"token%d " % token for token in range(32_000)]
RNG = np.random.default_rng(0)


def scheduler(rows: int, slots: int, **options: object) -> Scheduler:
    capacity = Capacity(slots=slots, rows=rows, context_length=8192, vocab_size=len(VOCABULARY))
    return Scheduler(capacity, RadixCache(), eos=[2], vocabulary=VOCABULARY, **options)  # type: ignore[arg-type]


def prompt(shared: int = 0) -> list[int]:
    tokens: list[int] = RNG.integers(3, 32_000, PROMPT - shared).tolist()
    return [7] * shared + tokens


def result(batch: Batch) -> Result:
    return Result(RNG.integers(3, 32_000, len(batch.sampled), dtype=np.int32))


def timed(call: Callable[[], object]) -> tuple[float, object]:
    start = time.thread_time()
    value = call()
    return (time.thread_time() - start) * 1e3, value


def decode(rows: int, *, overlap: bool, sampling: Sampling, shared: int = 0) -> tuple[float, float]:
    """Median milliseconds of plan and of commit when `rows` requests decode. `shared`: tokens that their
    prompts begin with together; then the batches say so.
    """
    least = 64 if shared else None
    schedule = scheduler(rows, rows * 5000, max_prefill_tokens=1 << 30, shared_least=least)
    if shared:
        warm(schedule, shared)
    for index in range(rows):
        schedule.add(Generate(f"r{index}", prompt(shared), sampling))
    flying: list[Batch] = []
    plans, commits = [], []
    for _ in range(300):
        took, batch = timed(schedule.plan)
        assert isinstance(batch, Batch)
        flying.append(batch)
        if len(batch.tokens) == rows:
            plans.append(took)
        if len(flying) > overlap:
            oldest = flying.pop(0)
            answer = result(oldest)
            took, _ = timed(lambda answer=answer: schedule.commit(answer))  # type: ignore[misc]
            if len(oldest.tokens) == rows:
                commits.append(took)
    assert bool(shared and rows > 1) == bool(batch.shared)
    return statistics.median(plans), statistics.median(commits)


def warm(schedule: Scheduler, shared: int) -> None:
    """Have the first `shared` tokens of prompts in the prefix cache."""
    schedule.add(Generate("warm", prompt(shared), Sampling(max_new_tokens=0)))
    batch = schedule.plan()
    assert batch is not None
    schedule.commit(result(batch))


def newcomer(rows: int, *, mixed: bool) -> tuple[float, float]:
    """Median milliseconds of plan and of commit of a step that computes one newcomer's prompt of 512 tokens
    while `rows` requests run: `mixed`, beside a token of each of them.
    """
    schedule = scheduler(rows + 1, (rows + 1) * 5000, max_prefill_tokens=1 << 30, enable_mixed_chunk=mixed)
    for index in range(rows):
        schedule.add(Generate(f"r{index}", prompt(), Sampling(max_new_tokens=4000, ignore_eos=True)))
    plans, commits = [], []
    for step in range(200):
        arrives = step >= 100 and step % 2 == 0
        if arrives:
            schedule.add(Generate(f"new{step}", prompt(), Sampling(max_new_tokens=1, ignore_eos=True)))
        took, batch = timed(schedule.plan)
        assert isinstance(batch, Batch)
        answer = result(batch)
        also, _ = timed(lambda answer=answer: schedule.commit(answer))  # type: ignore[misc]
        if arrives:
            assert len(batch.rows) == (rows + 1 if mixed else 1)
            assert len(batch.tokens) > PROMPT - 8, "no more than a first token is in the cache by chance"
            plans.append(took)
            commits.append(also)
    return statistics.median(plans), statistics.median(commits)


def admit(rows: int, shared: int) -> float:
    """Milliseconds of a plan that admits `rows` newcomers; `shared` tokens of each prompt are cached."""
    schedule = scheduler(rows, rows * 2048, max_prefill_tokens=1 << 30)
    warm(schedule, shared)
    for index in range(rows):
        schedule.add(Generate(f"r{index}", prompt(shared), Sampling(max_new_tokens=1000)))
    took, batch = timed(schedule.plan)
    assert isinstance(batch, Batch) and len(batch.rows) == rows
    return took


def full(rows: int, waiting: int) -> tuple[float, float]:
    """Median and mean milliseconds of plan and commit in a stream: memory is full, some end, some are
    admitted."""
    schedule = scheduler(rows, rows * 800, max_prefill_tokens=1 << 30)
    for index in range(rows + waiting):
        sampling = Sampling(max_new_tokens=int(RNG.integers(1, 500)), ignore_eos=True)
        schedule.add(Generate(f"r{index}", prompt(), sampling))
    times = []
    for _ in range(600):
        took, batch = timed(schedule.plan)
        if not isinstance(batch, Batch):
            break
        answer = result(batch)
        also, _ = timed(lambda answer=answer: schedule.commit(answer))  # type: ignore[misc]
        times.append(took + also)
    return statistics.median(times), statistics.fmean(times)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, nargs="+", default=[1, 64, 256, 1024])
    rows = arguments.parse_args().rows
    plain = Sampling(max_new_tokens=4000)
    strings = Sampling(max_new_tokens=4000, stop=(b"</answer>", b"\n\n"))
    biased = Sampling(max_new_tokens=4000, logit_bias=((5, 1.0), (6, -1.0)), frequency_penalty=0.5)
    print(f"{'step, ms of CPU time':<34}{'rows':>6}{'plan':>9}{'commit':>9}{'both':>9}")
    for name, overlap, sampling, shared in (
        ("plain", False, plain, 0),
        ("with overlap", True, plain, 0),
        ("with overlap, prefixes shared", True, plain, 400),
        ("two stop strings", False, strings, 0),
        ("logit bias and penalties", False, biased, 0),
    ):
        for count in rows:
            plan, commit = decode(count, overlap=overlap, sampling=sampling, shared=shared)
            print(f"{name:<34}{count:>6}{plan:>9.3f}{commit:>9.3f}{plan + commit:>9.3f}")
    for name, mixed in (
        ("a prompt of 512, nothing beside it", False),
        ("a prompt of 512 beside the rows", True),
    ):
        for count in rows:
            plan, commit = newcomer(count, mixed=mixed)
            print(f"{name:<34}{count:>6}{plan:>9.3f}{commit:>9.3f}{plan + commit:>9.3f}")
    print(f"\n{'plan that admits all rows, ms':<34}{'rows':>6}{'cold':>9}{'cached':>9}")
    for count in rows:
        print(f"{'prompts of 512 tokens':<34}{count:>6}{admit(count, 0):>9.3f}{admit(count, 400):>9.3f}")
    print(f"\n{'stream in a full pool, ms':<34}{'rows':>6}{'median':>9}{'mean':>9}")
    for count in rows:
        median, mean = full(count, 1000)
        print(f"{'with 1,000 waiting':<34}{count:>6}{median:>9.3f}{mean:>9.3f}")


if __name__ == "__main__":
    main()
