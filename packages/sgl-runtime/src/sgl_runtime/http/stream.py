# SPDX-License-Identifier: Apache-2.0
"""Answers that take a while: work stops the moment its client leaves, streamed (server-sent events) or not.

The work is cancelled, its generators are closed, and what they hold open (an engine request) is aborted by
that. Knows nothing of what is computed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from sgl_runtime.errors import SglError
from sgl_runtime.http.writing import Write, write_of

T = TypeVar("T")

_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`. Cancels it and raises ClientDisconnect if the client leaves first.

    The body must have been read: any further message from the client is its leaving.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if left.done():
            left.result()
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        left.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def data_frame(event: Any) -> bytes:
    """`data: {...}`."""
    return b"data: " + msgspec.json.encode(event) + b"\n\n"


def named_frame(event: Any) -> bytes:
    """The same behind the name of the event, which is its type."""
    name: str = event["type"]
    return f"event: {name}\n".encode() + data_frame(event)


class EventStream:
    """An ASGI answer: a frame for each item of `events`, then `end`.

    An SglError before the first event travels on and becomes a status; after it, an event as `render_error`
    has it.
    """

    def __init__(
        self,
        events: AsyncGenerator[Any, None],
        render_error: Callable[[SglError], Any],
        *,
        frame: Callable[[Any], bytes] = data_frame,
        end: bytes = b"data: [DONE]\n\n",
    ) -> None:
        self._events = events
        self._render_error = render_error
        self._frame = frame
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await while_connected(receive, self._answer(write_of(scope), send))

    async def _answer(self, write: Write, send: Send) -> None:
        async with aclosing(self._events) as events:
            event = await anext(events)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            try:
                await send(_piece(self._frame(event)))
                async for event in events:
                    data = self._frame(event)
                    if not write(data):
                        await send(_piece(data))
            except SglError as error:
                await send(_piece(self._frame(self._render_error(error))))
        await send({"type": "http.response.body", "body": self._end, "more_body": False})


def _piece(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}
