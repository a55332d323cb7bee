# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: Anthropic's protocol on the same engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypedDict
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.http.anthropic.answer import AnsweredMessage, MessageWriter
from sgl_runtime.http.anthropic.request import dialogue_of
from sgl_runtime.http.anthropic.schema import CountBody, MessagesBody
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Composed, compose
from sgl_runtime.http.errors import anthropic_error, json_response
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_text_request
from sgl_runtime.http.operation import operation
from sgl_runtime.http.reading import AnswerReader
from sgl_runtime.http.stream import EventStream, named_frame, while_connected

_MESSAGES = msgspec.json.Decoder(MessagesBody)
_COUNT = msgspec.json.Decoder(CountBody)
_SPELLING = {
    "max_new_tokens": "max_tokens",
    "stop": "stop_sequences",
    "json_schema": "output_config.format.schema",
}


class MessageEvent(TypedDict):
    """One of Anthropic's: `message_start`, `content_block_delta`, … and its fields."""

    type: str


class CountAnswer(TypedDict):
    input_tokens: int


_EXAMPLE = {"model": "default", "messages": [{"role": "user", "content": "Hello!"}]}


@operation(
    reads=_MESSAGES,
    answers=AnsweredMessage,
    streams=MessageEvent,
    refuses=UNKNOWN_MODEL,
    example={**_EXAMPLE, "max_tokens": 8},
)
async def messages(api: Api, request: Request) -> ASGIApp:
    """Answer a chat, with tools if there are any: Anthropic's protocol."""
    body, _ = await read_text_request(api, request, _MESSAGES)
    id = f"msg_{uuid4().hex}"
    composed = await _compose(api, body)
    prepared = await api.preparation.prepare([composed.ask(id, "messages")])
    display = None if body.thinking is None else body.thinking.display
    writer = MessageWriter(
        id,
        api.model_name,
        AnswerReader(api, composed),
        body.stop_sequences or (),
        shows_thinking=display != "omitted",
    )
    if body.stream:
        events = _events(api, prepared, writer)
        return EventStream(events, anthropic_error, frame=named_frame, end=b"")
    return json_response(await while_connected(request.receive, _whole(api, prepared, writer)))


@operation(reads=_COUNT, answers=CountAnswer, refuses=UNKNOWN_MODEL, example=_EXAMPLE)
async def count_tokens(api: Api, request: Request) -> Response:
    """How many tokens the prompt of a message would have."""
    body, tokenizer = await read_text_request(api, request, _COUNT)
    composed = await compose(api, dialogue_of(api, body), SamplingBody(), _spell)
    tokens = await asyncio.to_thread(tokenizer.encode, composed.prompt, add_special=False)
    answer: CountAnswer = {"input_tokens": len(tokens)}
    return json_response(answer)


async def _whole(api: Api, prepared: PreparedRequest, writer: MessageWriter) -> AnsweredMessage:
    with api.client.open(prepared, streaming=False) as generation:
        (output,) = await generation.results()
    return writer.whole(output)


async def _events(
    api: Api, prepared: PreparedRequest, writer: MessageWriter
) -> AsyncGenerator[dict[str, Any], None]:
    begun = False
    with api.client.open(prepared, streaming=True) as generation:
        async for output in generation.outputs():
            if not begun:
                begun = True
                yield writer.begin(output)
            for event in writer.events(output):
                yield event


async def _compose(api: Api, body: MessagesBody) -> Composed:
    format = None if body.output_config is None else body.output_config.format
    sampling = SamplingBody(
        max_new_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
        json_schema=None if format is None else format.schema,
    )
    return await compose(api, dialogue_of(api, body), sampling, _spell)


def _spell(field: str) -> str:
    return _SPELLING.get(field, field)
