# SPDX-License-Identifier: Apache-2.0
"""Deltas in, outputs out: nothing lost, nothing twice, whatever the pace of the reader."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import EOS, byte_tokenizer, logprobs_of

from sgl_runtime.engine.request import Sample, TextOptions
from sgl_runtime.engine.stream import Generation, Output, Stream, new_detokenizer
from sgl_runtime.errors import EngineDied, InvalidRequest, Overloaded
from sgl_runtime.messages import (
    Aborted,
    Delta,
    Finish,
    Generate,
    Logprobs,
    Sampling,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)

TOKENIZER = byte_tokenizer()
DETOKENIZER = partial(new_detokenizer, TOKENIZER, (EOS,))


def sample(index: int = 0, *, options: TextOptions | None = None, **sampling: Any) -> Sample:
    rid = f"wire{index}"
    generate = Generate(rid, [1], Sampling(**sampling))
    return Sample(index=index, id=f"id{index}", rid="r", generate=generate, text=options or TextOptions())


def stream(every: int = 1, **options: Any) -> tuple[Stream, list[Stream]]:
    woken: list[Stream] = []
    it = sample(**options)
    return Stream(it, DETOKENIZER(it), every=every, wake=woken.append), woken


def say(it: Stream, text: bytes, finish: Finish | None = None, **more: Any) -> None:
    it.push(Delta(it.sample.generate.rid, list(text), finish, **more))


def taken(it: Stream) -> Output:
    output = it.take()
    assert output is not None
    return output


def test_text_is_cumulative_and_new_text_is_not() -> None:
    it, _ = stream()
    say(it, b"ab", cached=5)
    first = taken(it)
    say(it, b"c", StoppedByLength(3))
    second = taken(it)
    assert (first.new_text, first.text, first.finish) == ("ab", "ab", None)
    assert (second.new_text, second.text, second.finish) == ("c", "abc", StoppedByLength(3))
    assert (second.new_tokens, second.completion_tokens, second.cached_tokens) == ([99], 3, 5)
    assert it.take() is None


def test_what_gathers_while_nobody_reads_comes_as_one() -> None:
    it, _ = stream()
    for letter in b"hello":
        say(it, bytes([letter]), output_logprobs=logprobs_of([letter], 1))
    output = taken(it)
    assert (output.new_text, output.output_logprobs) == ("hello", logprobs_of(b"hello", 1))
    assert it.take() is None


def test_the_interval_counts_tokens_and_the_first_comes_at_once() -> None:
    it, woken = stream(every=3)
    counts = []
    for letter in b"abcdefg":
        say(it, bytes([letter]))
        counts.append(len(woken))
        if woken:
            it.take()
            woken.clear()
    say(it, b"", StoppedByLength(7))
    assert counts == [1, 0, 0, 1, 0, 0, 1]
    assert len(woken) == 1


def test_without_streaming_only_the_end_wakes() -> None:
    it, woken = stream(every=0)
    say(it, b"abc")
    assert not woken
    say(it, b"", StoppedByLength(3))
    assert taken(it).text == "abc"
    assert woken == [it]


@pytest.mark.parametrize(
    ("options", "sampling", "tokens", "finish", "text"),
    [
        ({}, {}, [*b"hi", EOS], StoppedByToken(EOS), "hi"),
        ({"skip_special": False}, {}, [*b"hi", EOS], StoppedByToken(EOS), "hi"),
        ({"skip_special": False, "keep_stop": True}, {}, [*b"hi", EOS], StoppedByToken(EOS), "hi<eos>"),
        ({"skip_special": False}, {"ignore_eos": True}, [*b"h", EOS, *b"i"], StoppedByLength(3), "h<eos>i"),
        ({}, {"stop_token_ids": (33,)}, list(b"hi!"), StoppedByToken(33), "hi"),
        ({}, {"stop_token_ids": (33,), "ignore_eos": True}, list(b"hi!"), StoppedByToken(33), "hi"),
        ({"keep_stop": True}, {"stop_token_ids": (33,)}, list(b"hi!"), StoppedByToken(33), "hi!"),
        ({}, {"stop": (b"END",)}, list(b"hi END"), StoppedByString(b"END"), "hi "),
        ({"keep_stop": True}, {"stop": (b"END",)}, list(b"hi END"), StoppedByString(b"END"), "hi END"),
        ({}, {"stop": (b"END",)}, list(b"hi EN"), StoppedByLength(5), "hi EN"),
        ({}, {}, list("世".encode()[:2]), StoppedByLength(2), "\ufffd"),
    ],
)
def test_how_texts_end(
    options: dict[str, bool], sampling: dict[str, Any], tokens: list[int], finish: Finish, text: str
) -> None:
    it, _ = stream(options=TextOptions(**options), **sampling)
    for token in tokens[:-1]:
        it.push(Delta("wire0", [token]))
        it.take()
    it.push(Delta("wire0", tokens[-1:], finish))
    assert taken(it).text == text


def test_no_tokenizer_no_text() -> None:
    it = Stream(sample(), None, every=1, wake=lambda _: None)
    say(it, b"ab", StoppedByLength(2))
    output = taken(it)
    assert (output.text, output.new_tokens) == ("", [97, 98])


def test_turned_away_before_the_first_token_is_overloaded_later_it_is_an_end() -> None:
    turned_away, _ = stream()
    say(turned_away, b"", Aborted("full", overloaded=True))
    with pytest.raises(Overloaded, match="full"):
        turned_away.take()
    cut, _ = stream()
    say(cut, b"a", Aborted("full", overloaded=True))
    assert taken(cut).finish == Aborted("full", overloaded=True)


def test_a_failure_reaches_the_reader_even_behind_tokens() -> None:
    it, _ = stream()
    say(it, b"a")
    it.fail(EngineDied("gone"))
    with pytest.raises(EngineDied, match="gone"):
        it.take()


def test_what_the_prompt_alone_found_out_is_inherited() -> None:
    it, _ = stream()
    it.inherit(Delta("first", [], StoppedByLength(0), 4, logprobs_of([7], 0)))
    say(it, b"a", cached=9)
    output = taken(it)
    assert (output.cached_tokens, output.reused_tokens) == (9, 4)
    assert output.input_logprobs == logprobs_of([7], 0)
    say(it, b"a")
    assert taken(it).input_logprobs is None


def test_a_generation_ends_when_all_samples_have() -> None:
    async def scenario() -> None:
        generation = Generation([sample(0), sample(1)], DETOKENIZER, every=0)
        reading = asyncio.create_task(generation.results())
        for it in reversed(generation.streams):
            await asyncio.sleep(0)
            assert not reading.done()
            say(it, b"x", StoppedByLength(1))
        assert [output.sample.index for output in await reading] == [0, 1]

    asyncio.run(scenario())


@settings(max_examples=200, deadline=None)
@given(
    texts=st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=3),
    plan=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans()), max_size=20),
    every=st.integers(1, 3),
)
def test_any_pace_of_steps_and_reader_gives_the_same(
    texts: list[bytes], plan: list[tuple[int, int, bool]], every: int
) -> None:
    """`plan`: which sample gets how many tokens next, and whether the reader runs in between."""

    async def scenario() -> None:
        generation = Generation([sample(i) for i in range(len(texts))], DETOKENIZER, every=every)
        gathered: list[list[Output]] = [[] for _ in texts]

        async def read() -> None:
            async for output in generation.outputs():
                gathered[output.sample.index].append(output)

        reading = asyncio.create_task(read())
        left = [list(text) for text in texts]
        finish = [(index % len(texts), count, pause) for index, count, pause in plan]
        for index, count, pause in [*finish, *((i, 99, False) for i in range(len(texts)))]:
            now, left[index] = left[index][:count], left[index][count:]
            it = generation.streams[index]
            if it.finish is None:
                end = None if left[index] else StoppedByLength(len(texts[index]))
                it.push(Delta(it.sample.generate.rid, now, end, 0, None, logprobs_of(now, 1)))
            for _ in range(3 * pause):
                await asyncio.sleep(0)
        await reading
        for text, outputs in zip(texts, gathered, strict=True):
            assert "".join(output.new_text for output in outputs) == text.decode(errors="replace")
            assert outputs[-1].text == text.decode(errors="replace")
            assert bytes(token for output in outputs for token in output.new_tokens) == text
            parts = [output.output_logprobs or Logprobs([], [], []) for output in outputs]
            assert [token for part in parts for token in part.tokens] == list(text)
            assert [output.finish is not None for output in outputs] == [False] * (len(outputs) - 1) + [True]

    asyncio.run(scenario())


def test_a_sample_that_is_refused_before_its_first_token_is_an_invalid_request() -> None:
    it, _ = stream()
    say(it, b"", Aborted("no such grammar", invalid=True))
    with pytest.raises(InvalidRequest, match="no such grammar"):
        it.take()
    it, _ = stream()
    say(it, b"ab", Aborted("the grammar has grown", invalid=True))
    assert taken(it).finish == Aborted("the grammar has grown", invalid=True)


def test_forced_tokens_add_up() -> None:
    it, _ = stream()
    say(it, b"abc", forced=2)
    say(it, b"d")
    say(it, b"ef", StoppedByLength(6), forced=1)
    output = taken(it)
    assert (output.completion_tokens, output.forced_tokens) == (6, 3)
