# SPDX-License-Identifier: Apache-2.0
"""Reading while the model speaks: text_iter and text_async_iter."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgl_lang import (
    BackendError,
    Completion,
    ProgramError,
    Prompt,
    SamplingParams,
    Scripted,
    assistant,
    function,
    gen,
    user,
)


@function
def conversation(s):
    s += user("count")
    s += assistant(gen("a") + "!" + gen("b"))


BEFORE = "<|im_start|>user\ncount<|im_end|>\n<|im_start|>assistant\n"


def test_pieces_arrive_while_the_model_speaks(held):
    state = conversation.run(stream=True, backend=held)
    pieces = state.text_iter()
    seen = ""
    while seen != BEFORE:  # the prompt may come in several pieces
        seen += next(pieces)
    held.permits.release()
    assert next(pieces) == "one"
    held.permits.release()
    assert next(pieces) == " two"
    held.permits.release(10)
    assert "".join(pieces) == " three!one two three<|im_end|>\n"
    assert not [t for t in threading.enumerate() if t.name.startswith("sgl ")]
    assert state["a"] == state["b"] == "one two three"


def test_the_pieces_of_one_variable(held):
    state = conversation.run(stream=True, backend=held)
    pieces = state.text_iter("b")
    held.permits.release(4)
    assert next(pieces) == "one"
    assert state["a"] == "one two three"
    held.permits.release(1)
    assert next(pieces) == " two"
    assert "b" in state
    held.permits.release(1)
    assert list(pieces) == [" three"]


def test_several_readers_at_once_each_get_everything(held):
    state = conversation.run(stream=True, backend=held)
    read: list[str] = []
    readers = [threading.Thread(target=lambda: read.append("".join(state.text_iter()))) for _ in range(4)]
    for reader in readers:
        reader.start()
    held.permits.release(6)
    for reader in readers:
        reader.join()
    assert read == [BEFORE + "one two three!one two three<|im_end|>\n"] * 4


def test_a_reader_that_leaves_early_disturbs_nothing(held):
    state = conversation.run(stream=True, backend=held)
    next(state.text_iter())
    held.permits.release(6)
    assert state["b"] == "one two three"
    assert state.error() is None


def test_without_streaming_the_text_comes_at_once():
    state = conversation.run(backend=Scripted({"a": "one two", "b": "three"}))
    assert list(state.text_iter()) == [state.text()]
    assert list(state.text_iter("a")) == ["one two"]
    assert list(state.text_iter("a")) == ["one two"]


def test_the_program_itself_may_iterate():
    @function
    def program(s):
        s += "x" + gen("a")
        assert "".join(s.text_iter("a")) == "one two"
        s += "y"
        assert "".join(s.text_iter()) == s.text() == "xone twoy"
        s["n"] = 5
        assert list(s.text_iter("n")) == ["5"]
        with pytest.raises(ProgramError, match="no variable 'b'"):
            list(s.text_iter("b"))

    for stream in (False, True):
        assert program.run(backend=Scripted({"a": "one two"}), stream=stream).error() is None


def test_a_variable_that_never_comes_is_reported_at_the_end(held):
    state = conversation.run(stream=True, backend=held)
    held.permits.release(6)
    with pytest.raises(ProgramError, match="no variable 'c'; it has 'a', 'b'"):
        list(state.text_iter("c"))
    with pytest.raises(ProgramError, match="no variable 'c'"):
        state["c"]


def test_values_can_be_read_before_the_program_has_asked_for_them(held):
    state = conversation.run(stream=True, backend=held)
    threading.Timer(0.05, held.permits.release, (6,)).start()
    assert state["b"] == "one two three"
    assert state.get_meta_info("b") == {"words": 3}


def test_the_return_value_of_a_streaming_program():
    @function
    def program(s):
        s += gen("a")
        return len(s["a"])

    assert program.run(stream=True, backend=Scripted({"a": "four"})).ret_value == 4


def test_a_failure_is_raised_after_the_pieces_before_it():
    class Dies(Scripted):
        def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
            yield from super().stream(prompt, params)
            raise BackendError("lost")

    state = conversation.run(stream=True, backend=Dies({"a": "one two"}))
    seen = []
    with pytest.raises(BackendError, match="lost"):
        seen.extend(state.text_iter())
    assert "".join(seen) == BEFORE + "one two"
    seen = []
    with pytest.raises(BackendError, match="lost"):
        seen.extend(state.text_iter("a"))
    assert "".join(seen) == "one two"
    with pytest.raises(BackendError, match="lost"):
        list(state.text_iter("b"))


def test_async_iteration_leaves_the_loop_free(held):
    async def read(name: str | None) -> str:
        return "".join([piece async for piece in state.text_async_iter(name)])

    async def release() -> None:
        for _ in range(6):
            await asyncio.sleep(0)
            held.permits.release()

    async def main() -> list[str]:
        everything = await asyncio.gather(*[read(None) for _ in range(50)], read("b"), release())
        return everything[:-1]

    state = conversation.run(stream=True, backend=held)
    assert asyncio.run(main()) == [BEFORE + "one two three!one two three<|im_end|>\n"] * 50 + [
        "one two three"
    ]


def test_async_pieces_with_meta_info(held):
    async def main() -> None:
        pieces = state.text_async_iter("a", return_meta_data=True)
        held.permits.release()
        assert await anext(pieces) == ("one", {"words": 1})
        held.permits.release(5)
        rest = [piece async for piece in pieces]
        assert "".join(text for text, _ in rest) == " two three"
        assert rest[-1][1] == {"words": 3}
        with pytest.raises(ProgramError, match="needs var_name"):
            await anext(state.text_async_iter(None, return_meta_data=True))
        with pytest.raises(ProgramError, match="no variable 'c'"):
            await anext(state.text_async_iter("c"))

    state = conversation.run(stream=True, backend=held)
    asyncio.run(main())


def test_an_async_reader_whose_loop_is_gone_disturbs_nothing(held):
    state = conversation.run(stream=True, backend=held)
    pieces = state.text_async_iter()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(anext(pieces))
    loop.close()
    held.permits.release(6)
    assert state["b"] == "one two three"


@given(st.lists(st.text(max_size=5), max_size=8), st.lists(st.text(max_size=5), max_size=8))
def test_pieces_join_to_the_text_whatever_they_are(first, second):
    class Pieces(Scripted):
        def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
            pieces = first if prompt.name == "a" else second
            yield from (Completion("".join(pieces[: i + 1])) for i in range(len(pieces)))

    state = conversation.run(stream=True, backend=Pieces({}))
    assert "".join(state.text_iter()) == state.text()
    assert (state["a"], state["b"]) == ("".join(first), "".join(second))
    assert "".join(state.text_iter("b")) == "".join(second)
