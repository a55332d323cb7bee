# SPDX-License-Identifier: Apache-2.0
"""`/generate`: one or many, at once or as a stream, and what the answer says about itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import EOS, Script, answer_to, logprob
from served import served, settle

from sgl_runtime.errors import EngineDied
from sgl_runtime.messages import Aborted, Capacity, Delta, Logprobs, StoppedByLength

pytestmark = pytest.mark.anyio
GREEDY = {"temperature": 0}


async def test_one_text() -> None:
    async with served() as server:
        answer = await server.answer("/generate", {"text": "hello", "sampling_params": GREEDY, "rid": "mine"})
    assert answer == {
        "text": "HELLO",
        "meta_info": {
            "id": "mine",
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "completion_tokens_wo_jump_forward": 6,
            "cached_tokens": 0,
            "finish_reason": {"type": "stop", "matched": EOS},
        },
    }


async def test_put_is_post() -> None:
    async with served() as server:
        response = await server.http.put("/generate", json={"text": "hello", "sampling_params": GREEDY})
    assert response.json()["text"] == "HELLO"


async def test_input_ids() -> None:
    async with served() as server:
        answer = await server.answer("/generate", {"input_ids": list(b"hello"), "sampling_params": GREEDY})
        assert answer["text"] == "HELLO"
        answers = await server.answer("/generate", {"input_ids": [[97], [98]], "sampling_params": GREEDY})
        assert [answer["text"] for answer in answers] == ["A", "B"]


async def test_a_list_answers_with_a_list_even_of_one() -> None:
    async with served() as server:
        (answer,) = await server.answer("/generate", {"text": ["hello"], "sampling_params": GREEDY})
    assert answer["text"] == "HELLO"


async def test_each_prompt_its_own_parameters() -> None:
    body = {
        "text": ["hello", "world"],
        "sampling_params": [{**GREEDY, "max_new_tokens": 2}, {**GREEDY, "stop": "L"}],
        "rid": ["h", "w"],
        "return_logprob": [False, True],
        "logprob_start_len": [0, 3],
        "top_logprobs_num": [0, 1],
    }
    async with served() as server:
        hello, world = await server.answer("/generate", body)
    assert hello["text"] == "HE"
    assert hello["meta_info"]["finish_reason"] == {"type": "length", "length": 2}
    assert hello["meta_info"]["id"] == "h"
    assert "output_token_logprobs" not in hello["meta_info"]
    assert world["text"] == "WOR"
    assert world["meta_info"]["finish_reason"] == {"type": "stop", "matched": "L"}
    assert [entry[1] for entry in world["meta_info"]["input_token_logprobs"]] == list(b"ld")


async def test_samples_of_one_prompt() -> None:
    body = {"text": "abcdef", "sampling_params": {"n": 3, "seed": 1}, "rid": "mine"}
    async with served() as server:
        answers = await server.answer("/generate", body)
        assert await server.answer("/generate", body) != []
    assert [answer["text"] for answer in answers] == ["BCDEFA", "CDEFAB", "DEFABC"], "seed 1, 2, 3"
    assert [answer["meta_info"]["id"] for answer in answers] == ["mine-0", "mine-1", "mine-2"]


async def test_samples_of_several_prompts_come_prompt_by_prompt() -> None:
    body = {"text": ["ab", "cd"], "sampling_params": {"n": 2, "seed": 0}, "rid": "mine"}
    async with served() as server:
        answers = await server.answer("/generate", body)
    assert [answer["text"] for answer in answers] == ["AB", "BA", "CD", "DC"]
    assert [answer["meta_info"]["id"] for answer in answers] == [
        "mine-0-0",
        "mine-0-1",
        "mine-1-0",
        "mine-1-1",
    ]


async def test_the_second_time_the_prompt_is_cached() -> None:
    async with served() as server:
        for cached in (0, 4):
            answer = await server.answer("/generate", {"text": "hello"})
            assert answer["meta_info"]["cached_tokens"] == cached


class TestStreaming:
    async def test_events_carry_all_text_so_far(self) -> None:
        async with served(Script(per_step=2)) as server:
            events = await server.events(
                "/generate", {"text": "hello", "sampling_params": GREEDY, "stream": True}
            )
        assert [event["text"] for event in events] == ["HE", "HELL", "HELLO"]
        assert [event["meta_info"]["completion_tokens"] for event in events] == [2, 4, 6]
        reasons = [event["meta_info"]["finish_reason"] for event in events]
        assert reasons == [None, None, {"type": "stop", "matched": EOS}]
        assert all("index" not in event for event in events)

    async def test_a_character_comes_when_it_is_complete(self) -> None:
        async with served(Script(per_step=1)) as server:
            events = await server.events(
                "/generate", {"text": "世界", "sampling_params": GREEDY, "stream": True}
            )
        assert [event["text"] for event in events] == ["世", "世界", "世界"]

    async def test_of_several_samples_events_say_whose_they_are(self) -> None:
        body = {"text": ["ab", "cd"], "sampling_params": {"n": 2, "seed": 0}, "stream": True}
        async with served(Script(per_step=1)) as server:
            events = await server.events("/generate", body)
        last = {event["index"]: event["text"] for event in events}
        assert last == {0: "AB", 1: "BA", 2: "CD", 3: "DC"}
        assert len(events) > 4

    async def test_logprobs_are_cumulative_too(self) -> None:
        body = {"text": "hello", "sampling_params": GREEDY, "return_logprob": True, "top_logprobs_num": 1}
        async with served(Script(per_step=2)) as server:
            whole = await server.answer("/generate", body)
            events = await server.events("/generate", {**body, "stream": True})
        assert [len(event["meta_info"]["output_token_logprobs"]) for event in events] == [2, 4, 6]
        assert [len(event["meta_info"]["input_token_logprobs"]) for event in events] == [5, 5, 5]
        del whole["meta_info"]["id"], events[-1]["meta_info"]["id"], whole["meta_info"]["cached_tokens"]
        del events[-1]["meta_info"]["cached_tokens"]
        assert events[-1] == whole

    async def test_the_interval_thins_the_events(self) -> None:
        async with served(Script(per_step=1), stream_interval=4) as server:
            events = await server.events(
                "/generate", {"text": "abcdefgh", "sampling_params": GREEDY, "stream": True}
            )
        assert [event["text"] for event in events] == ["A", "ABCDE", "ABCDEFGH"]


class TestLogprobs:
    body: dict[str, Any] = {"text": "ab", "sampling_params": GREEDY, "return_logprob": True}  # noqa: RUF012

    async def test_shape(self) -> None:
        async with served() as server:
            answer = await server.answer("/generate", {**self.body, "top_logprobs_num": 2})
        meta = answer["meta_info"]
        b, capital = logprob(98), logprob(65)
        assert meta["input_token_logprobs"] == [[None, 97, None], [b, 98, None]]
        assert meta["input_top_logprobs"] == [[], [[b, 98, None], [b - 1, 99, None]]]
        assert meta["output_token_logprobs"][0] == [capital, 65, None]
        assert meta["output_top_logprobs"][0] == [[capital, 65, None], [capital - 1, 66, None]]
        assert meta["normalized_prompt_logprob"] == b

    async def test_with_text(self) -> None:
        async with served() as server:
            answer = await server.answer(
                "/generate", {**self.body, "text": "é", "return_text_in_logprobs": True}
            )
        assert [entry[2] for entry in answer["meta_info"]["input_token_logprobs"]] == ["\ufffd", "\ufffd"]
        assert answer["meta_info"]["output_token_logprobs"][-1][2] == "<eos>"

    async def test_from_where(self) -> None:
        async with served() as server:
            for start, tokens in ((-1, []), (0, [97, 98]), (1, [98]), (2, [])):
                answer = await server.answer("/generate", {**self.body, "logprob_start_len": start})
                assert [entry[1] for entry in answer["meta_info"]["input_token_logprobs"]] == tokens
                assert "input_top_logprobs" not in answer["meta_info"]

    async def test_scoring_generates_nothing(self) -> None:
        body = {**self.body, "sampling_params": {"max_new_tokens": 0}}
        async with served() as server:
            answer = await server.answer("/generate", body)
        assert (answer["text"], answer["meta_info"]["completion_tokens"]) == ("", 0)
        assert answer["meta_info"]["finish_reason"] == {"type": "length", "length": 0}
        assert [entry[1] for entry in answer["meta_info"]["input_token_logprobs"]] == [97, 98]
        assert answer["meta_info"]["output_token_logprobs"] == []

    async def test_what_is_ruled_out_is_a_number(self) -> None:
        script = Script(per_step=None)
        async with served(script) as server:
            script.senders[0].send = lambda message: _say_ruled_out(script, message)  # type: ignore[method-assign]
            answer = await server.answer(
                "/generate", {**self.body, "logprob_start_len": -1, "top_logprobs_num": 1}
            )
        assert answer["meta_info"]["output_top_logprobs"] == [[[-9999.0, 1, None]]]


def _say_ruled_out(script: Script, message: Any) -> None:
    logprobs = Logprobs([65], [-1.0], [[(1, float("-inf"))]])
    script.say(Delta(message.rid, [65], StoppedByLength(1), output_logprobs=logprobs))


async def test_without_a_tokenizer_answers_are_token_ids() -> None:
    body = {
        "input_ids": list(b"ab"),
        "sampling_params": GREEDY,
        "return_logprob": True,
        "return_text_in_logprobs": True,
    }
    async with served(Script(per_step=2), skip_tokenizer_init=True) as server:
        answer = await server.answer("/generate", body)
        events = await server.events("/generate", {**body, "stream": True})
        assert (await server.post("/v1/completions", {"prompt": [97]})).status_code == 400
    assert answer["token_ids"] == [65, 66, EOS]
    assert "text" not in answer
    assert answer["meta_info"]["output_token_logprobs"][0][1:] == [65, None]
    assert [event["token_ids"] for event in events] == [[65, 66], [65, 66, EOS]]


async def test_the_default_length_is_cut_to_what_fits() -> None:
    script = Script()
    async with served(script) as server:
        await server.answer("/generate", {"text": "x" * 500})
    assert script.generates[0].sampling.max_new_tokens == 12


@pytest.mark.parametrize("stream", [False, True])
async def test_turned_away_by_the_engine_is_503(stream: bool) -> None:
    script = Script(answer=answer_to, per_step=None)
    script.senders[0].send = lambda message: script.say(  # type: ignore[method-assign]
        Delta(message.rid, [], Aborted("the line is full", overloaded=True))  # type: ignore[attr-defined]
    )
    async with served(script) as server:
        response = await server.post("/generate", {"text": "hello", "stream": stream})
    assert (response.status_code, response.json()["error"]["message"]) == (503, "the line is full")


async def test_beyond_the_line_is_503() -> None:
    script = Script(per_step=None)
    capacity = Capacity(slots=4096, rows=1, context_length=512, vocab_size=260)
    async with served(script, capacity=capacity, max_queued_requests=1) as server:
        response = await server.post("/generate", {"text": ["a", "b", "c"]})
        assert response.status_code == 503
        assert "--max-queued-requests" in response.json()["error"]["message"]
    assert script.received == []


async def test_an_engine_that_dies_in_the_middle_is_an_event_of_the_stream() -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        reading = asyncio.create_task(server.events("/generate", {"text": "hello", "stream": True}))
        await settle()
        script.say(Delta(script.generates[0].rid, [65]))
        await settle()
        server.api.client.fail(EngineDied("replica 0 is gone"))
        first, second = await reading
    assert first["text"] == "A"
    assert second == {"error": {"message": "replica 0 is gone", "param": None}}
