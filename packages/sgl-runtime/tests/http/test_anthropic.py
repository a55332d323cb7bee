# SPDX-License-Identifier: Apache-2.0
"""Anthropic's protocol, with its own client over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import pytest
from scripted import EOS, Script, byte_tokenizer
from served import ROOMY, TOOL_TEMPLATE, listening, served

pytestmark = pytest.mark.anyio
TOKENIZER = byte_tokenizer(template=TOOL_TEMPLATE)
WEATHER: Any = {
    "name": "get_weather",
    "description": "Weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Zürich"}}</tool_call>'
HELLO: Any = [{"role": "user", "content": "a"}]


def says(text: str, per_step: int = 3) -> Script:
    return Script(answer=lambda _: [*text.encode(), EOS], per_step=per_step)


@asynccontextmanager
async def client_of(script: Script, **config: Any) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with (
        listening(script, tokenizer=TOKENIZER, capacity=ROOMY, api_key="secret", **config) as server,
        anthropic.AsyncAnthropic(base_url=server.url, api_key="secret", max_retries=0) as client,
    ):
        yield client


async def test_a_message() -> None:
    script = says("Grüezi!")
    async with client_of(script) as client:
        answer = await client.messages.create(
            model="default",
            max_tokens=64,
            system=[{"type": "text", "text": "Be nice.", "cache_control": {"type": "ephemeral"}}],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
            ],
            metadata={"user_id": "me"},
            stop_sequences=["zzz"],
        )
    assert bytes(script.generates[0].tokens).decode() == (
        "<|system|>Be nice.<|end|>\n<|user|>a\nb<|end|>\n<|assistant|>"
    )
    assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", "tiny")
    assert answer.id.startswith("msg_")
    assert [block.text for block in answer.content if block.type == "text"] == ["Grüezi!"]
    assert answer.usage.input_tokens == len(script.generates[0].tokens)
    assert answer.usage.output_tokens == len("Grüezi!".encode()) + 1
    assert script.generates[0].sampling.max_new_tokens == 64


async def test_why_it_stopped() -> None:
    async with client_of(says("one two three")) as client:
        asked: Any = {"model": "default", "messages": HELLO}
        short = await client.messages.create(max_tokens=3, **asked)
        stopped = await client.messages.create(max_tokens=50, stop_sequences=["two", "xyz"], **asked)
    assert (short.stop_reason, short.stop_sequence) == ("max_tokens", None)
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "two")
    assert stopped.content[0].to_dict()["text"] == "one "


@pytest.mark.parametrize("per_step", [1, 4, 500])
async def test_a_stream_put_together_by_the_client_is_the_message(per_step: int) -> None:
    text = f"<think>Hm, Zürich.</think>\n\nLet me see.{CALL}{CALL}"
    async with client_of(says(text, per_step)) as client:
        asked: Any = {"model": "default", "max_tokens": 400, "messages": HELLO, "tools": [WEATHER]}
        whole = await client.messages.create(**asked)
        async with client.messages.stream(**asked) as stream:
            texts = "".join([text async for text in stream.text_stream])
            streamed = await stream.get_final_message()
    blocks: list[Any] = [block.to_dict() for block in whole.content]
    assert [block["type"] for block in blocks] == ["thinking", "text", "tool_use", "tool_use"]
    assert blocks[0]["thinking"] == "Hm, Zürich."
    assert blocks[1]["text"] == texts == "Let me see."
    assert blocks[2]["input"] == {"city": "Zürich"}
    assert len({block["id"] for block in blocks[2:]}) == 2
    assert (whole.stop_reason, streamed.stop_reason) == ("tool_use", "tool_use")
    for block in blocks:
        block.pop("id", None)
    again: list[Any] = [block.to_dict() for block in streamed.content]
    for block in again:
        block.pop("id", None)
        block.pop("parsed_output", None)
    assert again == blocks
    assert streamed.usage.output_tokens == whole.usage.output_tokens


async def test_the_events_of_a_stream() -> None:
    async with served(says("Hi", per_step=1), tokenizer=TOKENIZER, capacity=ROOMY) as server:
        body = {"model": "default", "max_tokens": 9, "messages": HELLO, "stream": True}
        response = await server.post("/v1/messages", body)
    frames = [frame.split("\n") for frame in response.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in frames]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert names == [event["type"] for event in events]
    assert names == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert {event["index"] for event in events if "index" in event} == {0}
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["stop_reason"] is None
    assert events[1]["content_block"] == {"type": "text", "text": "", "citations": None}
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert events[-2]["usage"]["output_tokens"] == 3


async def test_blocks_are_numbered() -> None:
    script = says(f"<think>Hm.</think>Well.{CALL}{CALL}")
    async with served(script, tokenizer=TOKENIZER, capacity=ROOMY) as server:
        body = {"model": "default", "max_tokens": 400, "messages": HELLO, "tools": [WEATHER], "stream": True}
        response = await server.post("/v1/messages", body)
    events = [json.loads(line[6:]) for line in response.text.split("\n") if line.startswith("data: ")]
    for kind in ("start", "stop"):
        indices = [event["index"] for event in events if event["type"] == f"content_block_{kind}"]
        assert indices == [0, 1, 2, 3]
    deltas = [event["index"] for event in events if event["type"] == "content_block_delta"]
    assert sorted(deltas) == deltas and set(deltas) == {0, 1, 2, 3}


async def test_calls_and_results_go_back_to_the_model() -> None:
    script = says("12 degrees.")
    async with client_of(script) as client:
        await client.messages.create(
            model="default",
            max_tokens=50,
            tools=[WEATHER],
            messages=[
                {"role": "user", "content": "a"},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": ""},
                        {"type": "text", "text": "Well."},
                        {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "X"}},
                        {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "t1", "content": "12"},
                        {
                            "type": "tool_result",
                            "tool_use_id": "t2",
                            "content": [{"type": "text", "text": "no city"}],
                            "is_error": True,
                        },
                        {"type": "text", "text": "go on"},
                    ],
                },
            ],
        )
    prompt = bytes(script.generates[0].tokens).decode()
    call = '<tool_call>{"name": "get_weather", "arguments": '
    assert prompt.partition("<|assistant|>")[2] == (
        f'<think>Hm.</think>Well.{call}{{"city": "X"}}}}</tool_call>{call}{{}}}}</tool_call><|end|>\n'
        "<|tool|>12<|end|>\n<|tool|>Error: no city<|end|>\n<|user|>go on<|end|>\n<|assistant|>"
    )


async def test_the_beginning_of_an_answer_is_continued() -> None:
    script = says("Helios)")
    async with client_of(script) as client:
        answer = await client.messages.create(
            model="default",
            max_tokens=20,
            messages=[
                {"role": "user", "content": "Sun?"},
                {"role": "assistant", "content": "The best answer is ("},
            ],
        )
    assert bytes(script.generates[0].tokens).decode().endswith("<|assistant|>The best answer is (")
    assert answer.content[0].to_dict()["text"] == "Helios)"


async def test_tokens_are_counted() -> None:
    script = says("a")
    async with client_of(script) as client:
        asked: Any = {"model": "default", "messages": HELLO, "system": "S", "tools": [WEATHER]}
        count = await client.messages.count_tokens(**asked)
        assert script.received == []
        answer = await client.messages.create(max_tokens=5, **asked)
    assert count.input_tokens == answer.usage.input_tokens > 100


async def test_what_the_cache_held_is_told_apart() -> None:
    async with client_of(says("a")) as client:
        asked: Any = {"model": "default", "max_tokens": 5, "messages": HELLO}
        first = (await client.messages.create(**asked)).usage
        second = (await client.messages.create(**asked)).usage
    assert first.cache_read_input_tokens == 0
    assert second.cache_read_input_tokens == first.input_tokens - 1
    assert second.input_tokens == 1


async def test_a_call_that_is_cut_short_says_so() -> None:
    async with client_of(says(CALL)) as client:
        answer = await client.messages.create(model="default", max_tokens=59, messages=HELLO, tools=[WEATHER])
    assert answer.stop_reason == "max_tokens"
    (block,) = answer.content
    assert block.type == "tool_use"
    assert block.input == {"invalid_json": '{"city": "Z'}


async def test_thinking() -> None:
    template = TOOL_TEMPLATE + "{% if enable_thinking is false %}<think></think>{% endif %}"
    script = says("<think>Hm.</think>Yes.")
    tokenizer = byte_tokenizer(template=template)
    async with served(script, tokenizer=tokenizer, capacity=ROOMY) as server:
        asked = {"model": "default", "max_tokens": 50, "messages": HELLO}
        hidden = await server.answer(
            "/v1/messages", {**asked, "thinking": {"type": "adaptive", "display": "omitted"}}
        )
        await server.answer("/v1/messages", {**asked, "thinking": {"type": "disabled"}})
    assert hidden["content"][0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert hidden["content"][1]["text"] == "Yes."
    assert bytes(script.generates[1].tokens).endswith(b"<|assistant|><think></think>")


async def test_errors_are_the_clients_own() -> None:
    async with client_of(says("a")) as client:
        asked: Any = {"model": "default", "max_tokens": 5, "messages": HELLO}
        with pytest.raises(anthropic.BadRequestError, match="temperature") as bad:
            await client.messages.create(**asked, extra_body={"temperature": 7})
        assert bad.value.type == "invalid_request_error"
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(**{**asked, "model": "claude"})
        with pytest.raises(anthropic.AuthenticationError):
            await client.with_options(api_key="wrong").messages.create(**asked)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**6}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "messages[0].content[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0]",
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "tool_use", "id": "x", "name": "f", "input": {}}]}
            ]
        },
        "messages[0].content[0]",
    ),
    ({"messages": [*HELLO, {"role": "assistant", "content": " "}]}, "messages"),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "high"}}, "reasoning_effort"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"),
    ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
    ({"tools": [{"type": "bash_20250124", "name": "bash", "input_schema": {}}]}, "tools[0].type"),
    ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading"),
    ({"mcp_servers": [{}]}, "mcp_servers"),
    ({"container": "x"}, "container"),
    ({"stop_sequences": [""]}, "stop_sequences[0]"),
    ({"typo": 1}, "typo"),
]


async def test_bad_bodies_are_refused_in_anthropics_shape() -> None:
    script = Script()
    async with served(script, tokenizer=TOKENIZER, capacity=ROOMY) as server:
        for fields, named in BAD:
            body = {"model": "default", "max_tokens": 5, "messages": HELLO, **fields}
            response = await server.post("/v1/messages", body)
            assert response.status_code == 400, (fields, response.text)
            answer = response.json()
            assert answer["type"] == "error"
            assert answer["error"]["type"] == "invalid_request_error"
            assert named in answer["error"]["message"], (fields, answer)
        assert (await server.http.get("/v1/messages")).json()["type"] == "error"
    assert script.received == []


async def test_either_header_carries_the_key() -> None:
    async with served(says("a"), tokenizer=TOKENIZER, api_key="secret") as server:
        body = {"model": "default", "max_tokens": 5, "messages": HELLO}
        for headers, status in (
            ({"x-api-key": "secret"}, 200),
            ({"x-api-key": "secret", "authorization": "Bearer secret"}, 200),
            ({"x-api-key": "wrong"}, 401),
            ({"x-api-key": "wrong", "authorization": "Bearer secret"}, 401),
            ({}, 401),
        ):
            response = await server.http.post("/v1/messages", json=body, headers=headers)
            assert response.status_code == status, headers
        assert response.json()["error"]["type"] == "authentication_error"
