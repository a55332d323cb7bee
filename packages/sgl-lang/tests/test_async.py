# SPDX-License-Identifier: Apache-2.0
"""Programs that are coroutines, and plain ones that are awaited: the event loop is never held up."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sgl_lang import (
    AsyncState,
    BackendError,
    ProgramError,
    Scripted,
    State,
    assistant,
    function,
    gen,
    system,
    user,
)


@function
async def chat(s, question):
    s += system("Be kind.") + user(question)
    with s.assistant():
        s += gen("a", stop="\n")
    s += user("Why?") + assistant(gen("b"))
    return await s["a"] + "|" + await s["b"]


def test_a_coroutine_runs_like_any_program():
    async def main():
        state = await chat.run_async("hi", backend=Scripted({"a": "1", "b": "2"}), temperature=0)
        assert isinstance(state, AsyncState)
        assert await state["a"] == await state.get_var("a") == "1"
        assert await state.ret_value() == "1|2"
        assert [m["content"] for m in await state.messages()] == ["Be kind.", "hi", "1", "Why?", "2"]
        assert (await state.text()).endswith("2<|im_end|>\n")
        assert [piece async for piece in state.text_iter("a")] == ["1"]
        assert set(await state.get_meta_info("a")) == {"id"}
        assert (await state.error(), "a" in state, "c" in state) == (None, True, False)
        assert (await state.usage()).completion_tokens == 0
        with pytest.raises(ProgramError, match="no variable 'c'"):
            await state["c"]

    asyncio.run(main())


def test_where_no_loop_runs_it_gets_one():
    state = chat.run("hi", backend=Scripted({"a": "1", "b": "2"}))
    assert isinstance(state, State)
    assert (state["b"], state.ret_value) == ("2", "1|2")
    streamed = chat.run("hi", backend=Scripted({"a": "1", "b": "2 3"}), stream=True)
    assert "".join(streamed.text_iter("b")) == "2 3"

    async def main():
        with pytest.raises(ProgramError, match=r"await chat\.run_async"):
            chat.run("hi", backend=Scripted({}))

    asyncio.run(main())


def test_while_it_waits_others_run(held):
    ticks = []

    async def main():
        running = asyncio.create_task(program.run_async(backend=held))
        while not held.started.is_set():
            await asyncio.sleep(0)
        for _ in range(3):
            ticks.append(1)
            held.permits.release()
            await asyncio.sleep(0.01)
        return await (await running)["a"]

    @function
    async def program(s):
        s += gen("a")
        return await s["a"]

    assert asyncio.run(main()) == "one two three"
    assert len(ticks) == 3


def test_forks_are_awaited():
    @function
    async def program(s):
        s += "x"
        async with s.fork(2) as forks:
            forks += lambda i: str(i) + gen("g")
        async with s.copy() as c:
            c += gen("h")
        again = s.fork(2)
        again += ["a", "b"]
        await again.join("concate_and_append")
        with pytest.raises(ProgramError, match="mode"):
            await again.join("both")
        return await s["g"], await s["h"], await s.text()

    answers = Scripted(lambda prompt, params: f"<{prompt.text}>")
    assert program.run(backend=answers).ret_value == (["<x0>", "<x1>"], ["<x>"], "xab")


def test_errors_arrive_where_they_are_awaited():
    @function
    async def program(s):
        s += gen("a")
        s += gen("b")
        return await s["a"]

    async def main():
        state = await program.run_async(backend=Scripted({"a": "1", "b": BackendError("broken")}))
        assert await state["a"] == "1"
        with pytest.raises(BackendError, match="broken"):
            await state["b"]
        with pytest.raises(BackendError, match="broken"):
            await program.run_async(backend=Scripted({"a": BackendError("broken")}))
        streamed = await program.run_async(backend=Scripted({"a": BackendError("broken")}), stream=True)
        with pytest.raises(BackendError, match="broken"):
            await streamed.ret_value()
        assert isinstance(await streamed.error(), BackendError)

    asyncio.run(main())


def test_cancelling_gives_up_what_is_under_way(held):
    @function
    async def program(s):
        s += gen("a")
        await s["a"]

    @function
    def plain(s):
        s += gen("a")
        s["a"]

    async def main():
        for run in (program, plain):
            held.started.clear()
            held.aborts.clear()
            task = asyncio.create_task(run.run_async(backend=held))
            while not held.started.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(held.aborts) == 1

    asyncio.run(main())


def test_a_plain_program_can_be_awaited():
    @function
    def program(s):
        s += gen("a")
        return s["a"], threading.current_thread() is threading.main_thread()

    @function
    def failing(s):
        raise LookupError("mine")

    async def main():
        state = await program.run_async(backend=Scripted({"a": "1"}))
        assert await state.ret_value() == ("1", False)
        with pytest.raises(LookupError, match="mine"):
            await failing.run_async(backend=Scripted({}))

    asyncio.run(main())


def test_parts_of_coroutines():
    @function
    async def ask(s, question):
        s += question + gen("a")
        return await s["a"]

    @function
    def greet(s):
        s += "Hello. "

    @function
    async def whole(s):
        greet(s)
        return await ask(s, "1") + await ask.bind(question="2")(s)

    state = whole.run(backend=Scripted({"a": ["x", "y"]}))
    assert (state.ret_value, state.text()) == ("xy", "Hello. 1x2y")

    @function
    def wrong(s):
        ask(s, "1")

    with pytest.raises(ProgramError, match="ask is a coroutine"):
        wrong.run(backend=Scripted({}))


def test_many_at_once_in_one_loop():
    async def main():
        backend = Scripted(lambda prompt, params: prompt.text.upper())
        states = await asyncio.gather(*(chat.run_async(f"q{i}", backend=backend) for i in range(100)))
        return [await state.messages() for state in states]

    assert [messages[1]["content"] for messages in asyncio.run(main())] == [f"q{i}" for i in range(100)]
