# SPDX-License-Identifier: Apache-2.0
"""The official client against a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from scripted import EOS, Script
from served import listening

pytestmark = pytest.mark.anyio
MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "你是一个乐于助人的AI助手"},
    {"role": "user", "content": "列出三个国家和它们的首都。"},
]


@asynccontextmanager
async def client_of(script: Script, **config: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        listening(script, api_key="secret", **config) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client,
    ):
        yield client


def capitals() -> Script:
    return Script(answer=lambda _: [*"巴黎、东京、罗马".encode(), EOS], per_step=2)


async def test_completion() -> None:
    async with client_of(Script()) as client:
        answer = await client.completions.create(
            model="default", prompt="hello", temperature=0, max_tokens=32, logprobs=2, echo=True
        )
        assert answer.choices[0].text == "helloHELLO"
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.tokens is not None
        assert "".join(logprobs.tokens) == "helloHELLO<eos>"
        assert answer.usage is not None and answer.usage.total_tokens == 5 + 6


async def test_completion_streamed() -> None:
    async with client_of(Script()) as client:
        stream = await client.completions.create(
            model="default", prompt=["hello", "world"], temperature=0, stream=True, n=2
        )
        texts = ["", "", "", ""]
        async for event in stream:
            texts[event.choices[0].index] += event.choices[0].text
        assert texts == ["HELLO", "HELLO", "WORLD", "WORLD"]


async def test_chat() -> None:
    async with client_of(capitals()) as client:
        answer = await client.chat.completions.create(
            model="default",
            messages=MESSAGES,
            temperature=0,
            max_tokens=64,
            logprobs=True,
            top_logprobs=1,
            n=2,
        )
        assert [choice.message.content for choice in answer.choices] == ["巴黎、东京、罗马"] * 2
        assert answer.choices[0].finish_reason == "stop"
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content is not None
        data = b"".join(bytes(entry.bytes or []) for entry in logprobs.content)
        assert data.decode() == "巴黎、东京、罗马<eos>"


async def test_chat_streamed_with_the_clients_own_accumulator() -> None:
    async with client_of(capitals()) as client:
        async with client.chat.completions.stream(
            model="default", messages=MESSAGES, temperature=0, stream_options={"include_usage": True}
        ) as stream:
            async for _ in stream:
                pass
            answer = await stream.get_final_completion()
        assert answer.choices[0].message.content == "巴黎、东京、罗马"
        assert answer.usage is not None and answer.usage.completion_tokens == 25


async def test_an_answer_can_be_sent_back() -> None:
    script = capitals()
    async with client_of(script) as client:
        answer = await client.chat.completions.create(model="default", messages=MESSAGES)
        said: ChatCompletionMessageParam = answer.choices[0].message.to_dict()  # type: ignore[assignment]
        dumped: ChatCompletionMessageParam = answer.choices[0].message.model_dump()  # type: ignore[assignment]
        for message in (said, dumped):
            again = await client.chat.completions.create(
                model="default", messages=[*MESSAGES, message, MESSAGES[1]]
            )
            assert again.choices[0].message.content == "巴黎、东京、罗马"


async def test_models() -> None:
    async with client_of(Script(), served_model_name="tiny") as client:
        assert [model.id async for model in client.models.list()] == ["tiny"]
        assert (await client.models.retrieve("tiny")).owned_by == "sgl"


async def test_errors_are_the_clients_own() -> None:
    async with client_of(Script()) as client:
        with pytest.raises(openai.BadRequestError) as bad:
            await client.completions.create(model="default", prompt="a", temperature=-1)
        assert (bad.value.param, bad.value.type) == ("temperature", "invalid_request_error")
        with pytest.raises(openai.NotFoundError) as missing:
            await client.completions.create(model="gpt-4", prompt="a")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="text models"):
            await client.chat.completions.create(
                model="default",
                messages=[
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}
                ],
            )
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
