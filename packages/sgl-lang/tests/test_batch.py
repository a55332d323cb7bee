# SPDX-License-Identifier: Apache-2.0
"""Batches: order, failures, how many at once, and the prefix that all share."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import tracemalloc

import pytest

from sgl_lang import (
    BackendError,
    Capabilities,
    Completion,
    ProgramError,
    Scripted,
    function,
    gen,
    image,
    user,
)
from sgl_lang.executor import Executor
from sgl_lang.transcript import Transcript

FEW_SHOT = "Q: What is 1 + 1?\nA: 2\n" * 5


@function
def text_qa(s, question):
    s += FEW_SHOT + "Q: " + question + "\n"
    s += "A:" + gen("answer", stop="\n")
    return question


def answer(prompt, params):
    return " " + prompt.text.splitlines()[-2][3:].upper()


def test_results_are_in_order_and_arguments_dicts_or_tuples(capsys):
    batch = [{"question": f"q{i}"} if i % 2 else (f"q{i}",) for i in range(50)]
    states = text_qa.run_batch(batch, backend=Scripted(answer), progress_bar=True, temperature=0)
    assert [state["answer"] for state in states] == [f" Q{i}" for i in range(50)]
    assert [state.ret_value for state in states] == [f"q{i}" for i in range(50)]
    assert "50/50 [##############################]" in capsys.readouterr().err
    text_qa.run_batch(batch, backend=Scripted(answer))
    assert capsys.readouterr().err == ""
    assert text_qa.run_batch([], backend=Scripted(answer)) == []


def test_parameters_are_those_of_run():
    backend = Scripted(answer)
    text_qa.run_batch([("a",)], backend=backend, max_new_tokens=7, temperature=0.5, stop="x", seed=3)
    params = backend.calls[0].params
    assert (params.max_new_tokens, params.temperature, params.stop, params.seed) == (7, 0.5, ("\n",), 3)


def test_one_failure_does_not_sink_the_rest():
    @function
    def program(s, i):
        if i == 3:
            raise LookupError("mine")
        s += f"{i}" + gen("a")
        return s["a"]

    def fail(prompt, params):
        if prompt.text == "5":
            raise BackendError("broken")
        return "x"

    states = program.run_batch([(i,) for i in range(10)], backend=Scripted(fail))
    assert [type(state.error()) for i, state in enumerate(states) if i in (3, 5)] == [
        LookupError,
        BackendError,
    ]
    assert all(
        state.error() is None and state["a"] == "x" for i, state in enumerate(states) if i not in (3, 5)
    )
    with pytest.raises(LookupError, match="mine"):
        states[3].text()


def test_arguments_are_checked_before_anything_runs():
    backend = Scripted(answer)
    for batch, words in (
        ([("a",), {"questoin": "b"}], r"batch_kwargs\[1\]: text_qa\(\): .*question"),
        ([("a",), "b"], r"batch_kwargs\[1\] must be a dict or a tuple"),
        ([5], r"batch_kwargs\[0\] must be a dict"),
    ):
        with pytest.raises(ProgramError, match=words):
            text_qa.run_batch(batch, backend=backend)
    for threads in (0, "many", 1.5):
        with pytest.raises(ProgramError, match="num_threads"):
            text_qa.run_batch([("a",)], backend=backend, num_threads=threads)
    assert backend.calls == []


@pytest.mark.parametrize("threads", [1, 4])
def test_so_many_run_at_once(threads):
    now, most, lock = [0], [0], threading.Lock()

    def slow(prompt, params):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.005)
        with lock:
            now[0] -= 1
        return "x"

    text_qa.run_batch([(str(i),) for i in range(20)], backend=Scripted(slow), num_threads=threads)
    assert most[0] == threads


def test_the_shared_prefix_is_computed_once_and_first():
    backend = Scripted(answer)
    order = []
    backend.warm = lambda prompt: order.append(("warm", prompt.text))
    generate = backend.generate
    backend.generate = lambda prompt, params: order.append(("gen", "")) or generate(prompt, params)
    text_qa.run_batch([(f"{i}?",) for i in range(30)], backend=backend)
    assert order[0] == ("warm", FEW_SHOT + "Q: ")
    assert [kind for kind, _ in order[1:]] == ["gen"] * 30


@pytest.mark.parametrize(
    ("batch", "options"),
    [
        ([("a",)], {}),
        ([("a",), ("b",)], {"num_threads": 1}),
        ([("a",), ("b",)], {"backend": Scripted(answer, capabilities=Capabilities(prefix_cache=False))}),
    ],
)
def test_a_prefix_that_is_not_worth_it_is_not_computed(batch, options):
    backend = options.pop("backend", Scripted(answer))
    text_qa.run_batch(batch, backend=backend, **options)
    assert backend.warmed == []

    @function
    def unlike(s, i):
        s += f"{i}" + FEW_SHOT + gen("a")

    unlike.run_batch([(i,) for i in range(5)], backend=backend)
    assert backend.warmed == []


def test_programs_that_ask_for_nothing_hold_nobody_up():
    @function
    def program(s, i):
        if i == 7:
            s += FEW_SHOT + gen("a")

    states = program.run_batch([(i,) for i in range(20)], backend=Scripted({"a": "x"}))
    assert states[7]["a"] == "x"


def test_a_prefix_that_cannot_be_computed_fails_one_program():
    backend = Scripted(answer)

    def refuse(prompt):
        raise BackendError("too long")

    backend.warm = refuse
    states = text_qa.run_batch([(f"{i}",) for i in range(10)], backend=backend)
    assert sum(state.error() is not None for state in states) == 1


def test_images_end_the_shared_prefix():
    @function
    def program(s, i):
        s += FEW_SHOT + "<image>" + gen("a")

    @function
    def shown(s, i):
        s += FEW_SHOT + image(b"GIF89a" + bytes([i])) + " and more words " * 9 + gen("a")

    for run, expected in ((program, FEW_SHOT + "<image>"), (shown, FEW_SHOT)):
        backend = Scripted({"a": "x"})
        run.run_batch([(i,) for i in range(5)], backend=backend)
        assert [prompt.text for prompt in backend.warmed] == [expected]


def test_ctrl_c_gives_everything_up(held):
    once = threading.Lock()

    def interrupt():
        if once.acquire(blocking=False):
            os.kill(os.getpid(), signal.SIGINT)

    held.on_start = interrupt
    begun = []

    @function
    def program(s, i):
        begun.append(i)
        s += user(f"{i}")
        s += gen("a")

    with pytest.raises(KeyboardInterrupt):
        program.run_batch([(i,) for i in range(200)], backend=held, num_threads=8)
    assert len(begun) < 20
    assert held.aborts


def test_a_thousand_programs_leak_no_thread():
    before = threading.active_count()
    states = text_qa.run_batch([(f"{i}?",) for i in range(1000)], backend=Scripted(answer))
    assert [state["answer"] for state in states] == [f" {i}?" for i in range(1000)]
    assert threading.active_count() == before


def test_nothing_of_a_batch_is_kept():
    def alive():
        gc.collect()
        return sum(type(thing) in (Executor, Transcript) for thing in gc.get_objects())

    before = alive()
    for _ in range(2):
        states = text_qa.run_batch([(f"{i}?",) for i in range(100)], backend=Scripted(answer))
        assert alive() >= before + 100
        del states
        assert alive() == before


def test_memory_and_threads_are_what_they_were_however_often():
    class Answers(Scripted):
        def generate(self, prompt, params):
            return Completion(" yes" * 100)

        def warm(self, prompt):
            """Scripted would remember it."""

    @function
    def nested(s, wide, deep):
        s += "root" * 100
        forks = s.fork(wide)
        forks += lambda i: f"/{i}" + gen("wide")
        below = [fork.fork(wide) for fork in forks]
        for group in below:
            group += gen("wider")
        for _ in range(deep):
            (s,) = s.fork(1)
            s += "/" + gen("deep")
        return len(s.text())

    backend = Answers({})

    def held():
        states = text_qa.run_batch([(f"{i}?",) for i in range(100)], backend=backend)
        assert all(state.error() is None for state in states)
        assert nested.run(10, 100, backend=backend).ret_value == 400 + 401 * 100
        del states
        gc.collect()
        return tracemalloc.get_traced_memory()[0], threading.active_count()

    tracemalloc.start()
    try:
        held()
        before, threads = held()
        told = [held() for _ in range(4)]
    finally:
        tracemalloc.stop()
    assert [count for _, count in told] == [threads] * 4
    # 300 states in each of four rounds: 100 bytes that stay of each would be more.
    assert told[-1][0] < before + 100_000


def test_a_hundred_forks_of_each_of_a_hundred_forks():
    before = threading.active_count()
    most = [0]

    @function
    def program(s):
        s += "root"
        forks = s.fork(100)
        forks += lambda i: f"/{i}" + gen("g")
        below = [f.fork(100) for f in forks]
        for group in below:
            group += lambda i: f"/{i}" + gen("h")
        most[0] = threading.active_count()
        for group in below:
            group.join()
        forks.join()
        return s["h"]

    leaves = program.run(backend=Scripted({"g": "g", "h": "h"})).ret_value
    assert leaves == [["h"] * 100] * 100
    assert most[0] <= before + 256
    assert threading.active_count() == before


def test_a_coroutine_can_be_run_in_a_batch():
    @function
    async def program(s, i):
        s += f"{i}" + gen("a")
        return await s["a"]

    states = program.run_batch([(i,) for i in range(20)], backend=Scripted(lambda p, _: p.text * 2))
    assert [state.ret_value for state in states] == [str(i) * 2 for i in range(20)]
