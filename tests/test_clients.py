# SPDX-License-Identifier: Apache-2.0
"""Conformance: the vendors' own clients over every text endpoint, streamed and not, against SmolLM2 on a CPU.

What the model says is its own affair; that it can be read, counted, streamed and validated is not.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import anthropic
import jsonschema
import node
import openai
import pydantic
import pytest
from live import Server

T = TypeVar("T")

MESSAGES: Any = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the weather in Paris and in Rome?"},
]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12, "pattern": "^[A-Z][a-z]+$"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
    },
    "required": ["city", "unit"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Current weather.",
            "parameters": SCHEMA,
            "strict": True,
        },
    }
]


def settled(create: Callable[..., T], **asked: Any) -> T:
    """What is answered with the prompt in the cache, as it will be from then on: a prompt that is computed
    as a whole may round differently, and this model is often undecided.
    """
    create(**asked)
    return create(**asked)


class City(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    capital: bool


@pytest.fixture(scope="module")
def gpt(demonstration: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{demonstration.url}/v1", api_key="EMPTY", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(demonstration: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=demonstration.url, api_key="EMPTY", max_retries=0) as client:
        yield client


class TestCompletions:
    def test_every_field_of_a_text_model(self, gpt: openai.OpenAI) -> None:
        asked: Any = {
            "model": "default",
            "prompt": ["The capital of France is", "One, two, three,"],
            "max_tokens": 6,
            "temperature": 0,
            "n": 2,
            "logprobs": 3,
            "echo": True,
            "stop": ["\n"],
            "seed": 1,
            "frequency_penalty": 0.1,
            "presence_penalty": 0.1,
            "logit_bias": {"50": -100},
            "user": "me",
        }
        whole = settled(gpt.completions.create, **asked)
        assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
        options: Any = {"include_usage": True, "continuous_usage_stats": True}
        texts, tokens = [""] * 4, [[""] * 0 for _ in range(4)]
        for event in gpt.completions.create(**asked, stream=True, stream_options=options):
            for choice in event.choices:
                texts[choice.index] += choice.text
                tokens[choice.index] += (choice.logprobs and choice.logprobs.tokens) or []
            assert event.usage is not None
        assert whole.usage is not None and event.usage is not None
        assert event.usage.completion_tokens == whole.usage.completion_tokens
        for choice in whole.choices:
            assert texts[choice.index] == choice.text
            logprobs = choice.logprobs
            assert logprobs is not None and logprobs.text_offset and logprobs.tokens
            assert tokens[choice.index] == logprobs.tokens
            for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
                assert choice.text.startswith(token, offset) or offset == len(choice.text)

    def test_the_best_of_several(self, gpt: openai.OpenAI) -> None:
        asked: Any = {"model": "default", "prompt": "Once", "max_tokens": 4, "temperature": 1.5, "seed": 3}
        gpt.completions.create(**asked)
        best = gpt.completions.create(**asked, best_of=4, logprobs=0)
        every = gpt.completions.create(**asked, n=4, logprobs=0)

        def mean(choice: Any) -> float:
            return sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs)

        assert best.choices[0].text == max(every.choices, key=mean).text
        assert best.usage is not None and every.usage is not None
        assert best.usage.completion_tokens == every.usage.completion_tokens


class TestChat:
    def test_logprobs_spell_the_answer(self, gpt: openai.OpenAI) -> None:
        answer = gpt.chat.completions.create(
            model="default",
            messages=MESSAGES,
            max_completion_tokens=8,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
        )
        (choice,) = answer.choices
        assert choice.logprobs is not None and choice.logprobs.content is not None
        data = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
        assert data.decode() == choice.message.content
        for entry in choice.logprobs.content:
            assert entry.top_logprobs[0].token == entry.token, "greedy"
            assert len(entry.top_logprobs) == 2

    def test_json_that_follows_a_schema(self, gpt: openai.OpenAI) -> None:
        format: Any = {
            "type": "json_schema",
            "json_schema": {"name": "weather", "strict": True, "schema": SCHEMA},
        }
        answer = gpt.chat.completions.create(
            model="default", messages=MESSAGES, temperature=0, max_tokens=80, response_format=format
        )
        jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)
        parsed = gpt.chat.completions.parse(
            model="default", messages=MESSAGES, temperature=0, max_tokens=80, response_format=City
        )
        assert isinstance(parsed.choices[0].message.parsed, City)

    @pytest.mark.parametrize(
        "choice",
        ["required", {"type": "function", "function": {"name": "get_weather"}}],
        ids=["required", "named"],
    )
    def test_a_call_that_follows_its_schema(self, gpt: openai.OpenAI, choice: Any) -> None:
        asked: Any = {
            "model": "default",
            "messages": MESSAGES,
            "tools": TOOLS,
            "tool_choice": choice,
            "parallel_tool_calls": False,
            "temperature": 0,
            "max_tokens": 120,
        }
        answer = settled(gpt.chat.completions.create, **asked)
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function" and call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), SCHEMA)
        with gpt.chat.completions.stream(**asked) as stream:
            for _ in stream:
                pass
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls or []
        assert streamed.function.arguments == call.function.arguments
        result: Any = [
            answer.choices[0].message,
            {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"},
        ]
        told = gpt.chat.completions.create(
            model="default", messages=[*MESSAGES, *result], tools=TOOLS, tool_choice="none", max_tokens=8
        )
        assert told.choices[0].message.content

    def test_an_answer_that_may_call_what_is_strict(self, gpt: openai.OpenAI) -> None:
        answer = gpt.chat.completions.create(
            model="default", messages=MESSAGES, tools=TOOLS, temperature=0, max_tokens=60
        )
        for call in answer.choices[0].message.tool_calls or []:
            assert call.type == "function"
            if answer.choices[0].finish_reason == "tool_calls":
                jsonschema.validate(json.loads(call.function.arguments), SCHEMA)


class TestResponses:
    def test_streamed_or_not(self, gpt: openai.OpenAI) -> None:
        asked: Any = {"model": "default", "input": "Say hello.", "temperature": 0, "max_output_tokens": 12}
        whole = settled(gpt.responses.create, **asked)
        with gpt.responses.stream(**asked) as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert whole.output_text and "".join(texts) == whole.output_text
        more = gpt.responses.create(
            model="default", input="Again.", previous_response_id=whole.id, max_output_tokens=4
        )
        assert more.usage is not None and whole.usage is not None
        assert more.usage.input_tokens > whole.usage.input_tokens
        assert more.usage.input_tokens_details.cached_tokens > 0

    def test_calls_and_structure(self, gpt: openai.OpenAI) -> None:
        function = TOOLS[0]["function"]
        answer = gpt.responses.create(
            model="default",
            input="Weather in Rome?",
            tools=[{"type": "function", **function}],
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=0,
        )
        (call,) = answer.output
        assert call.type == "function_call"
        jsonschema.validate(json.loads(call.arguments), SCHEMA)
        parsed = gpt.responses.parse(model="default", input="Rome", text_format=City, temperature=0)
        assert isinstance(parsed.output_parsed, City)


class TestMessages:
    def test_streamed_or_not(self, claude: anthropic.Anthropic) -> None:
        asked: Any = {
            "model": "default",
            "max_tokens": 12,
            "system": "You are terse.",
            "messages": [{"role": "user", "content": "Say hello."}],
            "extra_body": {"temperature": 0},
        }
        count = claude.messages.count_tokens(
            model="default", system=asked["system"], messages=asked["messages"]
        )
        whole = settled(claude.messages.create, **asked)
        with claude.messages.stream(**asked) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        assert text and [block.to_dict()["text"] for block in whole.content] == [text]
        assert final.usage.output_tokens == whole.usage.output_tokens
        usage = whole.usage
        assert count.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)

    def test_a_call_that_follows_its_schema(self, claude: anthropic.Anthropic) -> None:
        asked: Any = {
            "model": "default",
            "max_tokens": 120,
            "messages": [{"role": "user", "content": "Weather in Rome?"}],
            "tools": [{"name": "get_weather", "input_schema": SCHEMA, "strict": True}],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
            "extra_body": {"temperature": 0},
        }
        whole = settled(claude.messages.create, **asked)
        (call,) = whole.content
        assert call.type == "tool_use" and whole.stop_reason == "tool_use"
        jsonschema.validate(call.input, SCHEMA)
        with claude.messages.stream(**asked) as stream:
            (streamed,) = stream.get_final_message().content
        assert streamed.type == "tool_use" and streamed.input == call.input


class TestBatches:
    def test_a_file_of_requests_is_answered(self, gpt: openai.OpenAI) -> None:
        body = {"model": "default", "messages": MESSAGES, "max_tokens": 4, "temperature": 0}
        line = {"method": "POST", "url": "/v1/chat/completions"}
        lines = [
            {"custom_id": "fine", **line, "body": body},
            {"custom_id": "wrong", **line, "body": {**body, "temperature": -1}},
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        file = gpt.files.create(file=("in.jsonl", text.encode()), purpose="batch")
        batch = gpt.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        while batch.status not in ("completed", "failed", "expired"):
            time.sleep(0.1)
            batch = gpt.batches.retrieve(batch.id)
        assert batch.request_counts is not None and batch.output_file_id and batch.error_file_id
        assert batch.request_counts.to_dict() == {"total": 2, "completed": 1, "failed": 1}
        told = json.loads(gpt.files.content(batch.output_file_id).text)
        assert told["custom_id"] == "fine"
        assert told["response"]["body"]["choices"][0]["message"]["content"]
        refused = json.loads(gpt.files.content(batch.error_file_id).text)
        assert refused["custom_id"] == "wrong" and "temperature" in json.dumps(refused)
        assert batch.id in [each.id for each in gpt.batches.list()]
        for id in (file.id, batch.output_file_id, batch.error_file_id):
            assert gpt.files.delete(id).deleted


def test_the_client_for_node(demonstration: Server) -> None:
    node.conforms(demonstration.url)
