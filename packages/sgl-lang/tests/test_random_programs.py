# SPDX-License-Identifier: Apache-2.0
"""Any program gives the same text, however it is run: plainly, streamed, batched, as a coroutine, traced."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_lang as sgl
from sgl_lang import Prompt, SamplingParams, Scripted, function, gen, select

NAMES = st.sampled_from("abc")
WORDS = st.text("xyzé汉 \n", max_size=4)
ROLES = st.sampled_from(["system", "user", "assistant"])

LEAVES = st.one_of(
    st.tuples(st.just("say"), WORDS),
    st.tuples(st.just("argument")),
    st.tuples(st.just("gen"), NAMES),
    st.tuples(st.just("select"), NAMES, st.lists(WORDS, min_size=1, max_size=3, unique=True)),
    st.tuples(st.just("set"), NAMES, WORDS),
    st.tuples(st.just("read"), NAMES),
    st.tuples(st.just("image")),
)


def _steps(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, max_size=4)
    return st.one_of(
        st.tuples(st.just("scope"), NAMES, several),
        st.tuples(st.just("turn"), ROLES, several),
        st.tuples(st.just("fork"), st.integers(1, 3), several, st.sampled_from(["gather", "append", "none"])),
        st.tuples(st.just("copy"), several),
    )


PROGRAMS = st.lists(st.recursive(LEAVES, _steps, max_leaves=12), max_size=6)


def body(s: Any, steps: Any, argument: Any, turn: bool = False) -> None:
    """Carry the steps out; a turn inside a turn is left out."""
    for step in steps:
        match step:
            case ("say", words):
                s += words
            case ("argument",):
                s += f"[{argument}]"
            case ("gen", name):
                s += gen(name)
            case ("select", name, choices):
                s += select(name, choices)
            case ("set", name, words):
                s[name] = words
            case ("read", name):
                if name in s:
                    s += "{" + f"{s[name]}" + "}"
            case ("image",):
                s += sgl.image(b"GIF89a")
            case ("scope", name, inner):
                with s.var_scope(name):
                    body(s, inner, argument, turn)
            case ("turn", role, inner):
                if turn:
                    body(s, inner, argument, turn)
                else:
                    with getattr(s, role)():
                        body(s, inner, argument, True)
            case ("fork", size, inner, how):
                forks = s.fork(size)
                for number, fork in enumerate(forks):
                    fork += f"#{number}"
                    body(fork, inner, argument, turn)
                if how != "none":
                    forks.join("gather_variable" if how == "gather" else "concate_and_append")
            case ("copy", inner):
                with s.copy() as copied:
                    body(copied, inner, argument, turn)


async def awaiting(s: Any, steps: Any, argument: Any, turn: bool = False) -> None:
    """The same as a coroutine: what reads is awaited."""
    for step in steps:
        match step:
            case ("read", name):
                if name in s:
                    s += "{" + f"{await s[name]}" + "}"
            case ("scope", name, inner):
                with s.var_scope(name):
                    await awaiting(s, inner, argument, turn)
            case ("turn", role, inner):
                if turn:
                    await awaiting(s, inner, argument, turn)
                else:
                    with getattr(s, role)():
                        await awaiting(s, inner, argument, True)
            case ("fork", size, inner, how):
                forks = s.fork(size)
                for number, fork in enumerate(forks):
                    fork += f"#{number}"
                    await awaiting(fork, inner, argument, turn)
                if how != "none":
                    await forks.join("gather_variable" if how == "gather" else "concate_and_append")
            case ("copy", inner):
                async with s.copy() as copied:
                    await awaiting(copied, inner, argument, turn)
            case _:
                body(s, [step], argument, turn)


def model(prompt: Prompt, params: SamplingParams) -> str:
    """A model whose words depend on every character of the prompt."""
    number = zlib.crc32(repr((prompt.text, prompt.messages)).encode())
    return "abcdef "[number % 7] * (number % 4)


class Model(Scripted):
    """It chooses like that, too."""

    def score(self, prompt: Prompt, options: Any, *, unconditional: bool = False) -> sgl.Scores:
        chosen = options[zlib.crc32(prompt.text.encode()) % len(options)]
        scores = (sgl.OptionScore((0.0 if option == chosen else -1.0,)) for option in options)
        return sgl.Scores(tuple(scores))


@settings(max_examples=60)
@given(PROGRAMS, WORDS)
def test_the_text_does_not_depend_on_how_a_program_is_run(steps: Any, argument: str) -> None:
    @function
    def program(s: Any, argument: Any) -> Any:
        body(s, steps, argument)
        return s.text()

    def seen(state: Any) -> Any:
        names = [name for name in "abc" if name in state]
        return state.text(), state.messages(), {name: state[name] for name in names}, state.ret_value

    plain = seen(program.run(argument, backend=Model(model)))
    streamed = program.run(argument, backend=Model(model), stream=True)
    assert "".join(streamed.text_iter()) == plain[0]
    assert seen(streamed) == plain
    batched = program.run_batch(
        [(argument,), (argument + "!",), {"argument": argument}], backend=Model(model)
    )
    assert [seen(batched[0]), seen(batched[2])] == [plain, plain]
    assert seen(program.trace().run(argument, backend=Model(model))) == plain

    @function
    async def coroutine(s: Any, argument: Any) -> Any:
        await awaiting(s, steps, argument)
        return await s.text()

    async def awaited(program: sgl.Program) -> Any:
        state = await program.run_async(argument, backend=Model(model), stream=True)
        pieces = [piece async for piece in state.text_iter()]
        names = [name for name in "abc" if name in state]
        values = {name: await state[name] for name in names}
        return "".join(pieces), (await state.text(), await state.messages(), values, await state.ret_value())

    for either in (program, coroutine):
        assert asyncio.run(awaited(either)) == (plain[0], plain)
