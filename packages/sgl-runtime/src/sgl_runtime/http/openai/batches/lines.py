# SPDX-License-Identifier: Apache-2.0
"""A line of a batch -> its result, by the functions that answer HTTP.

The body of a line goes to the batch's endpoint byte for byte, so what is checked, and what is said of
mistakes, is what a client on the line would be told. Knows nothing of other lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from sgl_runtime import log
from sgl_runtime.errors import EngineDied, InvalidRequest, Overloaded, SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.errors import on_bug, on_sgl_error
from sgl_runtime.http.kinds import Endpoint, for_embeddings, for_text
from sgl_runtime.http.openai import chat, completions, embeddings
from sgl_runtime.http.openai.batches.input import Ask, Line
from sgl_runtime.http.openai.batches.kept import Answer
from sgl_runtime.http.openai.batches.objects import NOTHING, BatchUsage
from sgl_runtime.http.openai.batches.usage import usage_of
from sgl_runtime.http.openai.responses import endpoint as responses

_logger = log.logger(__name__)
ENDPOINTS: Final[dict[str, Callable[[Api], Endpoint]]] = {
    "/v1/chat/completions": partial(for_text, endpoint=chat.chat_completions),
    "/v1/completions": partial(for_text, endpoint=completions.completions),
    "/v1/responses": partial(for_text, endpoint=responses.responses),
    "/v1/embeddings": partial(for_embeddings, endpoint=embeddings.embeddings),
}
# Ends of lines for some clients and none for JSON, where they can only stand in strings.
_LINE_ENDS = tuple((end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029")


async def answer(api: Api, line: Line) -> Answer:
    """Raises Overloaded and EngineDied: there can be no answer now."""
    if isinstance(line.ask, InvalidRequest):
        return unanswered(line, "invalid_request", line.ask.message)
    response = await _respond(api, line.ask)
    told = {"status_code": response.status_code, "body": msgspec.Raw(response.body)}
    usage = usage_of(bytes(response.body))
    return _answer(line, response=told, completed=response.status_code < 400, usage=usage)


def unanswered(line: Line, code: str, message: str) -> Answer:
    """The result of a line that no endpoint has seen."""
    return _answer(line, error={"code": code, "message": message})


def _answer(
    line: Line,
    *,
    response: dict[str, Any] | None = None,
    error: dict[str, str] | None = None,
    completed: bool = False,
    usage: BatchUsage = NOTHING,
) -> Answer:
    id = uuid4().hex
    told = None if response is None else {"request_id": f"req_{id}", **response}
    result = {"id": f"batch_req_{id}", "custom_id": line.custom_id, "response": told, "error": error}
    text = msgspec.json.encode(result)
    for character, escape in _LINE_ENDS:
        text = text.replace(character, escape)
    return Answer(line.number, text + b"\n", completed, usage)


async def _respond(api: Api, ask: Ask) -> Response:
    request = _request(ask.url, bytes(ask.body))
    (said,) = await asyncio.gather(ENDPOINTS[ask.url](api)(request), return_exceptions=True)
    match said:
        case Response():
            return said
        case Overloaded() | EngineDied():
            raise said
        case SglError():
            return await on_sgl_error(request, said)
        case Exception():
            _logger.error("a line of a batch met a mistake of ours", exc_info=said)
            return await on_bug(request, said)
        case BaseException():
            raise said
        case _:
            whole = "stream: the answers of a batch are whole; leave the field out"
            return await on_sgl_error(request, InvalidRequest(whole, param="stream"))


def _request(path: str, body: bytes) -> Request:
    """A POST as the server makes it of a client that stays."""
    arrived = False

    async def receive() -> Message:
        nonlocal arrived
        if arrived:
            await asyncio.Event().wait()
        arrived = True
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers}
    return Request(scope, receive)
