# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/responses`, and what was answered: `GET` and `DELETE /v1/responses/{id}`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any, Literal, TypedDict
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.sampling import SamplingBody, SamplingFields
from sgl_runtime.errors import SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import compose
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.models import read_text_request
from sgl_runtime.http.openai.responses.answer import ResponseWriter
from sgl_runtime.http.openai.responses.request import dialogue_of, turns_of
from sgl_runtime.http.openai.responses.schema import ResponsesBody, SchemaFormat, check
from sgl_runtime.http.openai.responses.shapes import AnsweredResponse, ResponseEvent, ResponseFields
from sgl_runtime.http.openai.responses.store import StoredResponse
from sgl_runtime.http.openai.schema import JsonObjectFormat
from sgl_runtime.http.operation import operation
from sgl_runtime.http.reading import AnswerReader
from sgl_runtime.http.stream import EventStream, named_frame, while_connected

_DECODER = msgspec.json.Decoder(ResponsesBody)
_SPELLING = {"max_new_tokens": "max_output_tokens", "json_schema": "text.format.schema"}


_UNKNOWN_RESPONSE = {404: "No such response is kept."}


class DeletedResponse(TypedDict):
    id: str
    object: Literal["response"]
    deleted: bool


@operation(
    reads=_DECODER,
    answers=AnsweredResponse,
    streams=ResponseEvent,
    refuses={404: "The model is not the one that is served, or the previous response is not kept."},
    example={"input": "Hello!", "max_output_tokens": 8},
)
async def responses(api: Api, request: Request) -> ASGIApp:
    """Answer items, with tools if there are any: OpenAI's newer protocol."""
    body, _ = await read_text_request(api, request, _DECODER)
    check(body)
    turns = turns_of(body.input)
    if body.previous_response_id is not None:
        before = await api.responses.get(body.previous_response_id, "previous_response_id")
        turns = before.turns + turns
    composed = await compose(api, dialogue_of(api, body, turns), _sampling(body), _spell)
    id = f"resp_{uuid4().hex}"
    prepared = await api.preparation.prepare([composed.ask(id, "input")])
    writer = ResponseWriter(AnswerReader(api, composed), _fields(api, body, id))
    kept = None if body.store is False else turns
    events = _events(api, prepared, writer, kept, streaming=bool(body.stream))
    if body.stream:
        return EventStream(events, _error, frame=named_frame, end=b"")
    return json_response(await while_connected(request.receive, _whole(events, writer)))


@operation(answers=AnsweredResponse, refuses=_UNKNOWN_RESPONSE)
async def get_response(api: Api, request: Request) -> Response:
    """A response that is kept."""
    stored = await api.responses.get(request.path_params["id"], "response_id")
    return json_response(stored.response)


@operation(answers=DeletedResponse, refuses=_UNKNOWN_RESPONSE)
async def delete_response(api: Api, request: Request) -> Response:
    """Forget a response."""
    id = request.path_params["id"]
    await api.responses.delete(id)
    answer: DeletedResponse = {"id": id, "object": "response", "deleted": True}
    return json_response(answer)


async def _events(
    api: Api,
    prepared: PreparedRequest,
    writer: ResponseWriter,
    turns: list[dict[str, Any]] | None,
    *,
    streaming: bool,
) -> AsyncGenerator[dict[str, Any], None]:
    """`turns`: of the conversation before the answer, if it is to be stored."""
    begun = False
    with api.client.open(prepared, streaming=streaming) as generation:
        async for output in generation.outputs():
            if not begun:
                begun = True
                for event in writer.begin():
                    yield event
            events = list(writer.events(output))
            if output.finish is not None and turns is not None:
                assert writer.response is not None, "it has ended"
                stored = StoredResponse(writer.response, [*turns, writer.turn()])
                api.responses.put(writer.response["id"], stored)
            for event in events:
                yield event


async def _whole(events: AsyncGenerator[dict[str, Any], None], writer: ResponseWriter) -> AnsweredResponse:
    async for _ in events:
        pass
    assert writer.response is not None, "it has ended"
    return writer.response


def _sampling(body: ResponsesBody) -> SamplingBody:
    alike = {name: getattr(body, name) for name in SamplingFields.__struct_fields__}
    match None if body.text is None else body.text.format:
        case JsonObjectFormat():
            alike["json_schema"] = {"type": "object"}
        case SchemaFormat(schema=schema):
            alike["json_schema"] = schema
    return SamplingBody(**alike, max_new_tokens=body.max_output_tokens)


def _spell(field: str) -> str:
    return _SPELLING.get(field, field)


def _fields(api: Api, body: ResponsesBody, id: str) -> ResponseFields:
    told = msgspec.to_builtins(body)
    format = {"type": "text"} if body.text is None or body.text.format is None else told["text"]["format"]
    return {
        "id": id,
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "model": api.model_name,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
        "store": body.store is not False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": format},
        "tool_choice": told["tool_choice"] or "auto",
        "tools": told["tools"] or [],
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _error(error: SglError) -> dict[str, Any]:
    """An event, where it is too late for a status."""
    return {"type": "error", "code": error.kind, "message": error.message, "param": error.param}
