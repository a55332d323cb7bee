# SPDX-License-Identifier: Apache-2.0
"""The leader's loop over a runner that, like a GPU, has results only for those who wait.

Constrained rows get their masks between model and sampler, and the answers are the same with and without
overlap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hash_runner import COMPILER, EOS, VOCABULARY, HashRunner, V, encode_text, generate, regex

from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import (
    Aborted,
    Batch,
    Capacity,
    Delta,
    Flush,
    Flushed,
    Generate,
    Masks,
    Result,
    Sampling,
    Step,
)
from sgl_runtime.replica.leader import Leader
from sgl_runtime.scheduler.constraint import Grammars
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.text.constraints import compile_constraint

CAPACITY = Capacity(slots=400, rows=6, context_length=64, vocab_size=V)
PATTERNS = (None, r"( abc(a|b|d)abcabcabc){2,9}d", r"([a-d]{2}bbb){3,9}", None, r"[abcd]{1,20}", r"ab{30}c")


class Inbox:
    def __init__(self, messages: list[Generate]) -> None:
        self._messages = messages
        self.waits: list[float] = []

    def drain(self) -> list[Generate]:
        messages, self._messages = self._messages, []
        return messages

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        time.sleep(min(seconds, 0.001))
        return bool(self._messages)


class Outbox:
    def __init__(self) -> None:
        self.deltas: list[Delta] = []

    def send(self, message: Any) -> None:
        assert isinstance(message, Step)
        self.deltas += message.deltas


class LaunchedPass:
    failed: tuple[int, ...] = ()

    def __init__(self, log: list[str], number: int, result: Result) -> None:
        self._log = log
        self._number = number
        self._result = result

    def result(self) -> Result:
        self._log.append(f"read {self._number}")
        return self._result


class AsynchronousRunner:
    """Keeps a log of what is launched and read, in order."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._runner = HashRunner(CAPACITY, self._truth, invalid=0)
        self.log: list[str] = []
        self._passes = 0

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> LaunchedPass:
        number, self._passes = self._passes, self._passes + 1
        self.log.append(f"model {number}")

        def ask() -> Masks | None:
            found = masks()
            self.log.append(f"sampler {number}" + (" masked" if found is not None else ""))
            return found

        return LaunchedPass(self.log, number, self._runner.forward(batch, ask))

    def _truth(self, row: int) -> list[int]:
        request = self._scheduler._memory.table.requests[row]
        assert request is not None
        tokens: list[int] = request.tokens().tolist()
        return tokens


def served(requests: list[Generate], *, overlap: bool) -> tuple[dict[str, list[Delta]], list[str], Inbox]:
    """The deltas of each request, the runner's log, and the inbox."""
    grammars = Grammars(partial(compile_constraint, COMPILER))
    scheduler = Scheduler(
        CAPACITY, RadixCache(), eos=EOS, vocabulary=VOCABULARY, grammars=grammars, encode=encode_text
    )
    runner, inbox, outbox = AsynchronousRunner(scheduler), Inbox(requests), Outbox()
    leader = Leader(scheduler, runner, inbox, outbox, replica=0, followers=None, overlap=overlap)  # type: ignore[arg-type]
    leader.step()
    while not scheduler.idle or leader._launched is not None:
        leader.step()
    grammars.close()
    told: dict[str, list[Delta]] = {request.rid: [] for request in requests}
    for delta in outbox.deltas:
        told[delta.rid].append(delta)
    return told, runner.log, inbox


def requests() -> list[Generate]:
    made = []
    for number, pattern in enumerate(PATTERNS * 2):
        constraint = None if pattern is None else regex(pattern)
        sampling = Sampling(max_new_tokens=40, temperature=0.75, seed=number, constraint=constraint)
        made.append(Generate(f"r{number}", [1 + number % 8, 2], sampling))
    return made


@pytest.mark.parametrize("overlap", [False, True])
def test_answers_are_those_without_a_scheduler(overlap: bool) -> None:
    told, _, _ = served(requests(), overlap=overlap)
    for request in requests():
        expected = generate(request, CAPACITY, invalid=0, jumps=True)
        deltas = told[request.rid]
        assert [token for delta in deltas for token in delta.tokens] == expected.tokens
        assert deltas[-1].finish == expected.finish and not isinstance(expected.finish, Aborted)


def test_with_overlap_a_model_runs_before_the_tokens_of_the_last_pass_are_read() -> None:
    _, log, _ = served(requests()[:2], overlap=True)
    masked = [int(line.split()[1]) for line in log if line.endswith("masked")]
    assert len(masked) > 3
    for number in masked:
        if f"read {number - 1}" in log:
            order = [log.index(line) for line in (f"model {number}", f"sampler {number} masked")]
            assert order[0] < log.index(f"read {number - 1}") < order[1]


def test_what_is_free_is_sampled_before_anything_is_read() -> None:
    free = [request for request in requests() if request.sampling.constraint is None]
    _, log, _ = served(free, overlap=True)
    places = deque(line for line in log if not line.startswith("model"))
    assert places[0] == "sampler 0" and places[1] == "sampler 1" and places[2] == "read 0"


def test_the_loop_sleeps_while_there_is_nothing_but_grammars_to_wait_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make = Grammars._make

    def slow(self: Grammars, constraint: Any) -> Any:
        time.sleep(0.05)
        return make(self, constraint)

    monkeypatch.setattr(Grammars, "_make", slow)
    told, _, inbox = served(requests()[1:2], overlap=False)
    assert told["r1"][-1].finish is not None
    assert inbox.waits and max(inbox.waits) < 0.1


def test_the_load_is_told_before_the_flush_that_changed_it() -> None:
    """Whoever has heard that the cache is empty must not be told after that what it held before."""
    told: list[Any] = []

    class Told:
        def send(self, message: Any) -> None:
            told.append(message)

    scheduler = Scheduler(CAPACITY, RadixCache(), eos=EOS, vocabulary=VOCABULARY)
    runner, inbox = AsynchronousRunner(scheduler), Inbox(requests()[:1])
    leader = Leader(scheduler, runner, inbox, Told(), replica=0, followers=None, overlap=False)  # type: ignore[arg-type]
    leader.step()
    while not leader.idle:
        leader.step()
    assert told[-1].load.slots_cached > 0
    told.clear()
    inbox._messages = [Flush("f")]  # type: ignore[list-item]
    leader.step()
    before = told[: told.index(Flushed("f", True))]
    assert [step.load.slots_cached for step in before] == [0]


def test_a_loop_that_nobody_asks_for_a_while_rests_once() -> None:
    class Ended(Exception):
        pass

    class Quiet(Inbox):
        def wait(self, seconds: float) -> bool:
            self.waits.append(seconds)
            events.append("wait")
            if not answers:
                raise Ended
            return answers.pop(0)

    events: list[str] = []
    answers = [True, False, True]  # a message at once, then one after a while
    scheduler = Scheduler(CAPACITY, RadixCache(), eos=EOS, vocabulary=VOCABULARY)
    leader = Leader(
        scheduler,
        AsynchronousRunner(scheduler),  # type: ignore[arg-type]
        inbox := Quiet([]),  # type: ignore[arg-type]
        Outbox(),
        replica=0,
        followers=None,
        overlap=False,
        rest=lambda: events.append("rest"),
    )
    with pytest.raises(Ended):
        leader.run()
    assert events == ["wait", "wait", "rest", "wait", "wait"]
    assert inbox.waits[0] == inbox.waits[1] < inbox.waits[2], "a short sleep, and after the rest a long one"
