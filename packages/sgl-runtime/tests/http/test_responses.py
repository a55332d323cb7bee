# SPDX-License-Identifier: Apache-2.0
"""`/v1/responses`, with OpenAI's own client over a real socket."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pydantic
import pytest
from scripted import EOS, Script, byte_tokenizer
from served import ROOMY, TOOL_TEMPLATE, listening, served

from sgl_runtime.http.openai.responses.store import ResponseStore, StoredResponse

pytestmark = pytest.mark.anyio
PATH = "/v1/responses"
TOKENIZER = byte_tokenizer(template=TOOL_TEMPLATE)
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '<tool_call>{"name": "get_weather", "arguments": {"city": "Zürich"}}</tool_call>'


class Person(pydantic.BaseModel):
    name: str
    age: int


def says(text: str, per_step: int = 3) -> Script:
    return Script(answer=lambda _: [*text.encode(), EOS], per_step=per_step)


@asynccontextmanager
async def client_of(script: Script) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listening(script, tokenizer=TOKENIZER, capacity=ROOMY) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client,
    ):
        yield client


def prompts(script: Script) -> list[str]:
    return [bytes(generate.tokens).decode() for generate in script.generates]


async def test_a_response() -> None:
    script = says("Grüezi!")
    async with client_of(script) as client:
        answer = await client.responses.create(
            model="default", instructions="Be nice.", input="a", max_output_tokens=64, temperature=0.5
        )
    assert prompts(script) == ["<|system|>Be nice.<|end|>\n<|user|>a<|end|>\n<|assistant|>"]
    assert answer.output_text == "Grüezi!"
    assert (answer.status, answer.model, answer.object) == ("completed", "tiny", "response")
    assert (answer.temperature, answer.max_output_tokens, answer.tool_choice) == (0.5, 64, "auto")
    assert answer.usage is not None
    assert answer.usage.input_tokens == len(script.generates[0].tokens)
    assert answer.usage.output_tokens == len("Grüezi!".encode()) + 1
    sampling = script.generates[0].sampling
    assert (sampling.max_new_tokens, sampling.temperature) == (64, 0.5)


async def test_an_answer_that_is_too_long() -> None:
    async with client_of(says("one two three")) as client:
        answer = await client.responses.create(model="default", input="a", max_output_tokens=3)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].to_dict()["status"] == "incomplete"


@pytest.mark.parametrize("per_step", [1, 4, 500])
async def test_a_stream_put_together_by_the_client_is_the_response(per_step: int) -> None:
    text = f"<think>Hm, Zürich.</think>\n\nLet me see.{CALL}{CALL}"
    async with client_of(says(text, per_step)) as client:
        asked: Any = {"model": "default", "input": "a", "tools": [WEATHER]}
        whole = await client.responses.create(**asked)
        async with client.responses.stream(**asked) as stream:
            texts = "".join([e.delta async for e in stream if e.type == "response.output_text.delta"])
            streamed = await stream.get_final_response()
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call", "function_call"]
    assert whole.output_text == texts == "Let me see."
    assert whole.output[0].to_dict()["content"] == [{"type": "reasoning_text", "text": "Hm, Zürich."}]
    assert whole.output[2].to_dict()["arguments"] == '{"city": "Zürich"}'
    assert _plain(streamed.output) == _plain(whole.output)
    assert whole.usage is not None and streamed.usage is not None
    assert whole.usage.output_tokens_details.reasoning_tokens == len("<think>Hm, Zürich.</think>".encode())
    assert streamed.usage.output_tokens == whole.usage.output_tokens


async def test_the_events_of_a_stream() -> None:
    async with served(says(f"Hi{CALL}", per_step=500), tokenizer=TOKENIZER, capacity=ROOMY) as server:
        body = {"input": "a", "stream": True, "tools": [WEATHER]}
        response = await server.post(PATH, body)
    frames = [frame.split("\n") for frame in response.text.strip().split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in frames]
    assert [name.removeprefix("event: ") for name, _ in frames] == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done"),
        *("output_item.done", "completed"),
    ]
    assert events[-1]["response"]["output"] == [e["item"] for e in events if e["type"].endswith("item.done")]


async def test_calls_and_results_go_back_to_the_model() -> None:
    script = says(CALL)
    async with client_of(script) as client:
        first = await client.responses.create(model="default", input="a", tools=[WEATHER])
        call = first.output[0]
        assert call.type == "function_call"
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12"}
        items: Any = [{"role": "user", "content": "a"}, *[item.to_dict() for item in first.output], result]
        await client.responses.create(model="default", input=items, tools=[WEATHER])
        await client.responses.create(
            model="default", input=[result], previous_response_id=first.id, tools=[WEATHER]
        )
    _, sent, remembered = prompts(script)
    assert sent == remembered
    assert (
        sent.partition("<|user|>")[2]
        == f"a<|end|>\n<|assistant|>{CALL}<|end|>\n<|tool|>12<|end|>\n<|assistant|>"
    )


async def test_a_turn_of_several_items_is_one_turn() -> None:
    script = says("ok")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    items: Any = [
        {"role": "developer", "content": [{"type": "input_text", "text": "S"}]},
        {"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": "R"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "T"}]},
        call,
        call,
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "again"}]},
        {"role": "assistant", "content": "U"},
    ]
    async with served(script, tokenizer=TOKENIZER, capacity=ROOMY) as server:
        await server.answer(PATH, {"input": items})
    made = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    assert prompts(script) == [
        f"<|system|>S<|end|>\n<|assistant|><think>R</think>T{made}{made}<|end|>\n"
        "<|assistant|><think>again</think>U<|end|>\n<|assistant|>"
    ]


async def test_structured_output_is_parsed_by_the_client() -> None:
    script = says('{"name": "Ada", "age": 36}')
    async with client_of(script) as client:
        answer = await client.responses.parse(model="default", input="a", text_format=Person)
    assert answer.output_parsed == Person(name="Ada", age=36)
    constraint = script.generates[0].sampling.constraint
    assert constraint is not None


async def test_what_is_stored_can_be_had_and_deleted() -> None:
    async with client_of(says("Hi")) as client:
        kept = await client.responses.create(model="default", input="a")
        gone = await client.responses.create(model="default", input="a", store=False)
        again = await client.responses.retrieve(kept.id)
        assert again.to_dict() == kept.to_dict()
        await client.responses.delete(kept.id)
        for id in (kept.id, gone.id):
            with pytest.raises(openai.NotFoundError):
                await client.responses.retrieve(id)
            with pytest.raises(openai.NotFoundError) as missing:
                await client.responses.create(model="default", input="a", previous_response_id=id)
            assert missing.value.param == "previous_response_id"


def test_the_store_forgets_what_was_used_least_recently() -> None:
    store = ResponseStore(max_bytes=200)
    one = StoredResponse({"text": "x" * 50}, [])
    for id in ("a", "b"):
        store.put(id, one)
    assert store.peek("a") is not None
    store.put("c", one)
    assert [store.peek(id) is not None for id in ("a", "b", "c")] == [True, False, True]
    assert (store.drop("a"), store.drop("a")) == (True, False)
    store.put("d", one)
    assert [store.peek(id) is not None for id in ("c", "d")] == [True, True]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"type": "function_call", "call_id": "x", "name": "f"}]}, "input[0].arguments"),
    (
        {"input": [{"type": "function_call", "call_id": "x", "name": "f", "arguments": "[]"}]},
        "input[0].arguments",
    ),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice"),
    ({"max_output_tokens": 10**6}, "max_output_tokens"),
    ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "schema": {"type": 5}}}}, "text.format.schema"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
    ({"background": True}, "background"),
    ({"include": ["message.output_text.logprobs"]}, "include"),
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "x"}, "conversation"),
    ({"n": 2}, "n"),
    ({"typo": 1}, "typo"),
]


async def test_bad_bodies_are_refused_by_name() -> None:
    script = Script()
    async with served(script, tokenizer=TOKENIZER, capacity=ROOMY) as server:
        for fields, param in BAD:
            response = await server.post(PATH, {"input": "a", **fields})
            assert response.status_code == 400, (fields, response.text)
            assert response.json()["error"]["param"] == param, (fields, response.text)
    assert script.received == []


def _plain(output: Any) -> list[dict[str, Any]]:
    """Without what differs between two requests, or is the client's own."""
    items = [item.to_dict() for item in output]
    for item in items:
        for name in ("id", "call_id", "parsed_arguments"):
            item.pop(name, None)
        for part in item.get("content", []):
            part.pop("parsed", None)
    return items
