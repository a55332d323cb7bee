# SPDX-License-Identifier: Apache-2.0
"""`Limits`: ASGI middleware that lets no client hold the server by sending too much, or sending or reading
too slowly.

A body has one length, a largest size and a time to arrive in. Whoever does not take what is sent to him for a
while is dropped, and with that his work is cancelled. How long a connection may be idle, or its headers may
take, is the server's to know (hypercorn's keep-alive timeout counts from the connection's first moment).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sgl_runtime import log
from sgl_runtime.http.errors import error_response

_logger = log.logger(__name__)


class _Deaf(Exception):
    """The client does not read. No handler of the application knows it, so it undoes what is under way."""


class Bodies(NamedTuple):
    """What a body may be."""

    size: int  # bytes
    seconds: float  # for all of it to arrive in
    flag: str  # that says the size


class Limits:
    def __init__(
        self, app: ASGIApp, *, bodies: Bodies, send_seconds: float, uploads: Mapping[str, Bodies] = {}
    ) -> None:
        """uploads: other limits of bodies, by path; send_seconds: for a client to take a piece of its answer
        once all buffers are full."""
        self._app = app
        self._bodies = bodies
        self._uploads = uploads
        self._send_seconds = send_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if {b"content-length", b"transfer-encoding"} <= {name.lower() for name, _ in scope["headers"]}:
            await _ambiguous(scope)(scope, receive, send)
            return
        body = _Body(receive, self._uploads.get(scope["path"], self._bodies))
        patience = _Patience(send, self._send_seconds)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and scope.get("http_version") != "2":
                await body.drain()
            await patience.send(message)

        try:
            await self._app(scope, body.receive, answer)
        except _Deaf:
            _logger.warning(
                "%s: its client took nothing for %g s and was dropped", scope["path"], self._send_seconds
            )
        finally:
            patience.end()


def _ambiguous(scope: Scope) -> Response:
    """A proxy might have taken it for a request of another length, and what follows for another request."""
    response = error_response(
        Request(scope), 400, "Content-Length and Transfer-Encoding are both given: leave out one"
    )
    response.headers["connection"] = "close"
    return response


class _Patience:
    """A request's `send`, given up when a piece is not taken in time.

    Most pieces wait for nothing, and a stream has one for every token: so there is one timer for all of them,
    which looks when the piece began that is under way.
    """

    def __init__(self, send: Send, seconds: float) -> None:
        self._send = send
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._sender: asyncio.Task[Any] | None = None  # while it sends
        self._since = 0.0
        self._lost = False
        self._timer: asyncio.TimerHandle | None = None

    async def send(self, message: Message) -> None:
        """Raises _Deaf."""
        self._since = self._loop.time()
        self._sender = asyncio.current_task()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if self._lost and self._sender is not None and self._sender.uncancel() == 0:
                raise _Deaf from None
            raise
        finally:
            self._sender = None

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if self._sender is None:
            self._timer = None  # the next piece winds it again
        elif now - self._since < self._seconds:
            self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        else:
            self._lost = True
            self._sender.cancel()


class _Body:
    """A request's `receive`. What exceeds the size is read and dropped, for a client that is still sending
    hears no answer; then 413."""

    def __init__(self, receive: Receive, limits: Bodies) -> None:
        self._receive = receive
        self._limits = limits
        self._size = 0
        self._deadline: float | None = None
        self._done = False

    async def receive(self) -> Message:
        """Raises HTTPException 413 at the end of what is too large, 408 when the time is up."""
        while not self._done:
            message = await self._in_time()
            self._size += len(message.get("body", b""))
            self._done = message["type"] != "http.request" or not message.get("more_body", False)
            if message["type"] == "http.request" and self._size > self._limits.size:
                if not self._done:
                    continue
                most, flag = self._limits.size, self._limits.flag
                raise HTTPException(413, f"the body has {self._size} bytes, more than {most} ({flag})")
            return message
        return await self._receive()

    async def drain(self) -> None:
        """Before an answer that did not need the rest of the body, for the same reason; a stream of HTTP/2
        hears it. What would be refused of the rest changes nothing: the answer stands.
        """
        with suppress(HTTPException):
            while not self._done:
                await self.receive()

    async def _in_time(self) -> Message:
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._limits.seconds
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError:
            self._done = True
            raise HTTPException(
                408, f"the body has not arrived within {self._limits.seconds:.0f} s (--body-timeout)"
            ) from None
