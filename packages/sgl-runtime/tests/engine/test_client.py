# SPDX-License-Identifier: Apache-2.0
"""Who gets which delta, and what is left behind when somebody leaves: nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted import CAPACITY, EOS, Script, byte_tokenizer, logprobs_of

from sgl_runtime.engine.client import EngineClient
from sgl_runtime.engine.prepare import Ask, Preparation
from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.router import ShortestQueue
from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.engine.stream import Generation, new_detokenizer
from sgl_runtime.errors import EngineDied, InvalidRequest, Overloaded
from sgl_runtime.messages import (
    Abort,
    Aborted,
    Delta,
    Flush,
    Generate,
    Load,
    LogprobSpec,
    StoppedByLength,
    StoppedByToken,
)

pytestmark = pytest.mark.anyio
TOKENIZER = byte_tokenizer()
PREPARATION = Preparation(TOKENIZER, CAPACITY, seeds=random.Random(1))
SCORED = LogprobSpec(start=1, top=2)  # with several samples, the prompt comes first


@asynccontextmanager
async def client_of(script: Script, *, rows: int = 8, **options: Any) -> AsyncIterator[EngineClient]:
    client = EngineClient(
        script.senders,
        script,
        router=ShortestQueue(),
        rows=rows,
        detokenizer=partial(new_detokenizer, TOKENIZER, (EOS,)),
        **options,
    )
    receiving = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        receiving.cancel()
        with suppress(asyncio.CancelledError):
            await receiving


async def request(*prompts: str, rid: str = "me", n: int = 1, **options: Any) -> PreparedRequest:
    asks = [
        Ask(
            prompt=prompt,
            source="text",
            sampling=SamplingBody(n=n, temperature=0.0),
            spell=str,
            id=f"{rid}/{i}",
            rid=rid,
            default_length=128,
            **options,
        )
        for i, prompt in enumerate(prompts)
    ]
    return await PREPARATION.prepare(asks)


async def texts(generation: Generation) -> list[str]:
    return [output.text for output in await generation.results()]


async def settle() -> None:
    """Let everything that has been said be heard."""
    for _ in range(50):
        await asyncio.sleep(0)


def quiet(client: EngineClient) -> bool:
    """Nothing in flight, and no book that still mentions anything."""
    flights = client._flights
    left = len(flights) + len(flights._by_name) + len(client._waiting) + len(client._asked)
    return left == 0 and set(client.in_flight) == {0}


async def test_each_sample_gets_its_own_answer() -> None:
    async with client_of(Script()) as client:
        with client.open(await request("one", "two", "three"), streaming=False) as generation:
            assert client.in_flight == [3]
            assert await texts(generation) == ["ONE", "TWO", "THREE"]
        assert quiet(client)


async def test_a_replica_need_not_tell_of_tokens_that_nobody_waits_for() -> None:
    script = Script()
    async with client_of(script, stream_interval=3) as client:
        with client.open(await request("whole"), streaming=False) as generation:
            assert await texts(generation) == ["WHOLE"]
        with client.open(await request("in parts"), streaming=True) as generation:
            assert (await texts(generation))[-1] == "IN PARTS"
    assert [message.every for message in script.generates] == [4, 3]


async def test_prompts_spread_over_replicas_and_samples_stay_together() -> None:
    script = Script(replicas=3, per_step=None)
    async with client_of(script) as client:
        with client.open(await request("a", "b", n=3), streaming=False):
            assert sorted(client.in_flight) == [0, 3, 3]
            with client.open(await request("c", rid="other"), streaming=False):
                assert sorted(client.in_flight) == [1, 3, 3]
        assert len({replica for replica, message in script.received if isinstance(message, Abort)}) == 3


async def test_leaving_aborts_what_has_not_ended_and_only_that() -> None:
    script = Script(per_step=None)
    async with client_of(script) as client:
        with client.open(await request("one", "two"), streaming=False) as generation:
            ended, running = script.generates
            script.say(Delta(ended.rid, [65], StoppedByLength(1)))
            await settle()
        assert script.aborts == [running.rid]
        assert quiet(client)
        script.say(Delta(running.rid, [66]))  # it crossed the Abort
        await settle()
        assert generation.streams[1].completion_tokens == 0


async def test_a_reader_that_is_cancelled_leaves() -> None:
    script = Script(per_step=None)
    async with client_of(script) as client:
        prepared = await request("one")

        async def read() -> None:
            with client.open(prepared, streaming=False) as generation:
                await generation.results()

        reading = asyncio.create_task(read())
        await settle()
        reading.cancel()
        await settle()
        assert script.aborts == [script.generates[0].rid]
        assert quiet(client)


async def test_abort_by_name_ends_those_samples_with_what_they_have() -> None:
    script = Script(per_step=None)
    async with client_of(script) as client:
        prepared = await request("one", "two", rid="both")
        with client.open(prepared, streaming=False) as generation:
            first, _ = script.generates
            script.say(Delta(first.rid, [65]))
            await settle()
            assert client.abort("nobody") == 0
            assert client.abort("both/1") == 1
            assert client.abort("both") == 1
            outputs = await generation.results()
            assert [output.text for output in outputs] == ["A", ""]
            assert {output.finish for output in outputs} == {Aborted("aborted by request")}
        assert sorted(script.aborts) == sorted(generate.rid for generate in script.generates)
        assert quiet(client)


async def test_abort_all() -> None:
    script = Script(per_step=None)
    async with client_of(script) as client:
        with (
            client.open(await request("one", rid="a"), streaming=False),
            client.open(await request("two", rid="b"), streaming=False),
        ):
            assert client.abort() == 2
        assert quiet(client)


async def test_a_name_in_flight_is_taken_and_free_again_afterwards() -> None:
    script = Script(per_step=None)
    async with client_of(script) as client:
        with client.open(await request("one", rid="mine"), streaming=False):
            with pytest.raises(InvalidRequest, match="'mine'") as caught:
                client.submit(await request("two", rid="mine"), every=0)
            assert caught.value.param == "rid"
            assert len(script.generates) == 1
        with client.open(await request("two", rid="mine"), streaming=False):
            assert len(script.generates) == 2


class TestPromptFirst:
    async def test_samples_follow_when_the_prompt_is_computed(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("abc", n=3, logprobs=SCORED), streaming=False) as generation:
                (first,) = script.generates
                assert first.sampling.max_new_tokens == 0
                script.say(Delta(first.rid, [], StoppedByLength(0), cached=7))
                await settle()
                samples = script.generates[1:]
                assert len(samples) == 3
                script.say(*(Delta(s.rid, [65], StoppedByLength(1), cached=99) for s in samples))
                outputs = await generation.results()
                assert {(output.reused_tokens, output.cached_tokens) for output in outputs} == {(7, 99)}
            assert quiet(client)

    async def test_the_prompts_logprobs_are_asked_for_once_and_given_to_all(self) -> None:
        script = Script()
        async with client_of(script) as client:
            with client.open(await request("abc", n=2, logprobs=SCORED), streaming=False) as generation:
                outputs = await generation.results()
        assert [output.input_logprobs for output in outputs] == [logprobs_of(b"bc", 2)] * 2
        assert [generate.logprobs for generate in script.generates] == [SCORED, *[LogprobSpec(top=2)] * 2]

    async def test_leaving_before_it_is_computed_aborts_it_alone(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("abc", n=3, logprobs=SCORED), streaming=False):
                pass
            assert script.aborts == [script.generates[0].rid]
            assert quiet(client)

    async def test_one_sample_aborted_meanwhile_is_not_sent(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("abc", n=3, logprobs=SCORED), streaming=False):
                client.abort("me/0-1")
                assert script.aborts == []
                script.say(Delta(script.generates[0].rid, [], StoppedByLength(0)))
                await settle()
                assert len(script.generates) == 1 + 2

    async def test_if_it_is_refused_so_are_they(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("abc", n=2, logprobs=SCORED), streaming=False) as generation:
                script.say(Delta(script.generates[0].rid, [], Aborted("no room", overloaded=True)))
                with pytest.raises(Overloaded, match="no room"):
                    await generation.results()
            assert quiet(client)
            assert script.aborts == []


class TestQueue:
    async def test_beyond_rows_and_the_line_nothing_is_sent(self) -> None:
        script = Script(per_step=None)
        async with client_of(script, rows=2, max_queued=1) as client:
            with client.open(await request("a", "b", "c"), streaming=False):
                with pytest.raises(Overloaded, match="max-queued-requests"):
                    client.submit(await request("d", rid="other"), every=0)
                assert len(script.generates) == 3
            client.submit(await request("d", rid="other"), every=0)
            with pytest.raises(Overloaded):
                client.submit(await request("e", "f", "g", rid="many"), every=0)

    async def test_the_replicas_word_counts_when_memory_is_what_is_short(self) -> None:
        script = Script(per_step=None)
        async with client_of(script, rows=100, max_queued=2) as client:
            with client.open(await request("a", "b", "c"), streaming=False):
                script.say(load=Load(running=1, waiting=2))
                await settle()
                with pytest.raises(Overloaded, match="2 requests are waiting"):
                    client.submit(await request("d", rid="other"), every=0)
            # What was said of requests that have left does not count.
            client.submit(await request("d", rid="other"), every=0)

    async def test_no_limit(self) -> None:
        script = Script(per_step=None)
        async with client_of(script, rows=1) as client:
            for i in range(50):
                client.submit(await request("a", rid=str(i)), every=0)
            assert client.in_flight == [50]


class TestTheEnd:
    async def test_draining_refuses_what_is_new_and_ends_when_the_old_has(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("one"), streaming=False) as generation:
                client.refuse(Overloaded("closing"))
                with pytest.raises(Overloaded, match="closing"):
                    client.submit(await request("two", rid="other"), every=0)
                idle = asyncio.create_task(client.idle())
                await settle()
                assert not idle.done()
                script.say(Delta(script.generates[0].rid, [65], StoppedByLength(1)))
                assert await texts(generation) == ["A"]
                await idle

    async def test_failing_reaches_everybody(self) -> None:
        script = Script(per_step=None)
        script.senders[0].send = lambda message: None  # type: ignore[method-assign]
        async with client_of(script) as client:
            flushing = asyncio.create_task(client.flush())
            with client.open(
                await request("one", "two", n=2, logprobs=SCORED), streaming=False
            ) as generation:
                await settle()
                client.fail(EngineDied("a replica died"))
                with pytest.raises(EngineDied, match="a replica died"):
                    await generation.results()
            with pytest.raises(EngineDied):
                await flushing
            with pytest.raises(EngineDied):
                client.submit(await request("three", rid="other"), every=0)
            with pytest.raises(EngineDied):
                await client.probe(1)
            assert quiet(client)

    async def test_a_broken_channel_is_for_the_one_who_runs_the_client(self) -> None:
        script = Script()
        async with client_of(script) as client:
            script.break_down(ValueError("not a message"))
            with pytest.raises(ValueError, match="not a message"):
                await client.run()


class TestFlush:
    async def test_all_replicas_are_asked(self) -> None:
        script = Script(replicas=2)
        async with client_of(script) as client:
            assert await client.flush()
            assert [replica for replica, message in script.received if isinstance(message, Flush)] == [0, 1]
            script.flushes = False
            assert not await client.flush()
            assert quiet(client)


class TestProbe:
    async def test_every_replica_produces_a_token(self) -> None:
        script = Script(replicas=2)
        async with client_of(script) as client:
            await client.probe(10)
            assert [replica for replica, _ in script.received] == [0, 1]
            assert [generate.sampling.max_new_tokens for generate in script.generates] == [1, 1]
            assert quiet(client)

    async def test_the_silent_one_is_named_and_its_probe_taken_back(self) -> None:
        script = Script(replicas=2, per_step=None)
        async with client_of(script) as client:
            probing = asyncio.create_task(client.probe(0.01))
            await settle()
            script.say(Delta(script.generates[0].rid, [1], StoppedByLength(1)))
            with pytest.raises(EngineDied, match="replica 1 has produced no token"):
                await probing
            assert script.aborts == [script.generates[1].rid]
            assert quiet(client)

    async def test_busy_with_others_is_healthy(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            with client.open(await request("one"), streaming=False):
                probing = asyncio.create_task(client.probe(0.01))
                await settle()
                script.say(Delta(script.generates[0].rid, [1]))
                await probing

    async def test_it_passes_the_line_and_is_nobodys_to_abort(self) -> None:
        script = Script(per_step=None)
        async with client_of(script, rows=1, max_queued=1) as client:
            with client.open(await request("a", "b"), streaming=False):
                probing = asyncio.create_task(client.probe(10))
                await settle()
                assert client.abort() == 2
                script.say(Delta(script.generates[-1].rid, [1], StoppedByLength(1)))
                await probing

    async def test_refused(self) -> None:
        script = Script(per_step=None)
        async with client_of(script) as client:
            probing = asyncio.create_task(client.probe(10))
            await settle()
            script.say(Delta(script.generates[0].rid, [], Aborted("out of memory")))
            with pytest.raises(EngineDied, match="out of memory"):
                await probing


async def test_the_load_is_kept_per_replica() -> None:
    script = Script(replicas=2)
    async with client_of(script) as client:
        script.say(replica=1, load=Load(running=4))
        await settle()
        assert client.loads == [Load(), Load(running=4)]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_happens_in_whatever_order_everybody_gets_their_own(data: st.DataObject) -> None:
    """Requests open, read, leave and are aborted while a replica answers in an order of its own."""

    async def scenario() -> None:
        script = Script(replicas=2, per_step=None)
        async with client_of(script) as client:
            readers: dict[str, asyncio.Task[list[str]]] = {}
            expected: dict[str, list[str]] = {}
            left: set[str] = set()

            async def read(prepared: PreparedRequest, streaming: bool) -> list[str]:
                with client.open(prepared, streaming=streaming) as generation:
                    texts = [""] * len(generation.streams)
                    async for output in generation.outputs():
                        texts[output.sample.index] += output.new_text
                    return texts

            for turn in range(data.draw(st.integers(1, 12))):
                match data.draw(st.sampled_from(["open", "answer", "answer", "leave", "abort"])):
                    case "open":
                        name = f"{turn}"
                        prompts = data.draw(st.sampled_from([["x", "y"], ["z"]]))
                        n = data.draw(st.integers(1, 2))
                        expected[name] = [f"<{prompt}>" for prompt in prompts for _ in range(n)]
                        spec = data.draw(st.sampled_from([None, SCORED]))
                        prepared = await request(*prompts, rid=name, n=n, logprobs=spec)
                        readers[name] = asyncio.create_task(read(prepared, data.draw(st.booleans())))
                    case "answer":
                        pending = _unanswered(script)
                        if pending:
                            replica, generate = data.draw(st.sampled_from(pending))
                            _answer(script, replica, generate)
                    case "leave" if readers:
                        name = data.draw(st.sampled_from(sorted(readers)))
                        readers[name].cancel()
                        left.add(name)
                    case "abort" if readers:
                        name = data.draw(st.sampled_from(sorted(readers)))
                        if client.abort(name):
                            left.add(name)
                if data.draw(st.booleans()):
                    await settle()
            for _ in range(1000):
                for replica, generate in _unanswered(script):
                    _answer(script, replica, generate)
                await settle()
                if all(reader.done() for reader in readers.values()):
                    break
            else:
                pytest.fail("somebody waits for ever")
            for name, reader in readers.items():
                with suppress(asyncio.CancelledError):
                    answers = await reader
                    if name not in left:
                        assert answers == expected[name]
            assert quiet(client)
            await client.idle()

    asyncio.run(scenario())


def _unanswered(script: Script) -> list[tuple[int, Generate]]:
    """What a replica still works on: sent, not aborted, not answered."""
    done = {message.rid for _, message in script.received if isinstance(message, Abort)} | script.answered
    return [(r, m) for r, m in script.received if isinstance(m, Generate) and m.rid not in done]


def _answer(script: Script, replica: int, generate: Generate) -> None:
    script.answered.add(generate.rid)
    if generate.sampling.max_new_tokens == 0:
        script.say(Delta(generate.rid, [], StoppedByLength(0)), replica=replica)
    else:
        script.say(Delta(generate.rid, [*b"<", *generate.tokens]), replica=replica)
        script.say(Delta(generate.rid, [*b">", EOS], StoppedByToken(EOS)), replica=replica)
