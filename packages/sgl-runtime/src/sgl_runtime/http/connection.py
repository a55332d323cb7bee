# SPDX-License-Identifier: Apache-2.0
"""Connections: which protocol each one speaks, how long it may be idle, and how it is closed.

HTTP/1.1 is hypercorn's, HTTP/2 ours. HTTP/2 is spoken where TLS has agreed on it, and without TLS to whoever
begins with its preface; an upgrade to it out of HTTP/1.1 is ignored, as RFC 9113 has none.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeAlias

import h11
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import H2ProtocolAssumedError, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import AppWrapper, ASGIFramework, ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app

from sgl_runtime.address import share_with_the_past
from sgl_runtime.http.errors import refusal
from sgl_runtime.http.http2 import Http2, SendEvent
from sgl_runtime.http.writing import WithWrite, Write, is_clear

_BACKLOG = 2048
_READ = 2**16  # bytes
_ABSOLUTE = re.compile(rb"https?://([^/?#]+)(.*)", re.IGNORECASE)  # authority, path and query

Protocol: TypeAlias = "Http1 | Http2"


class Http1(H11Protocol):
    """Looks for the preface of HTTP/2 alone, and writes the chunks of a stream itself: one changes nothing of
    what h11 knows, and there is one for every token. The head of an answer whose length is known leaves with
    the beginning of its body: one call of the kernel, and one packet.

    A request for a websocket is a request like any other: hypercorn would take the connection for one, and
    hold it for good if its handshake is wrong.
    """

    connection: h11.Connection
    _chunked = False  # the body under way
    _framed = False  # its length is in its head
    _head = b""  # which waits for it

    def __init__(self, app: AppWrapper, *rest: Any, transport: asyncio.WriteTransport) -> None:
        super().__init__(WithWrite(app, self.write), *rest)
        self._transport = transport

    def write(self, data: bytes) -> bool:
        """See http.writing."""
        if self.stream is None or not self._chunked or not is_clear(self._transport):
            return False
        self._transport.write(_chunk(data))
        return True

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Body) and self._chunked and event.data:
            await self.send(RawData(_chunk(event.data)))
            return
        if isinstance(event, Response):
            names = {name.lower() for name, _ in event.headers}
            self._framed = b"content-length" in names
            plain = not self._framed and b"transfer-encoding" not in names
            self._chunked = plain and self.connection.their_http_version == b"1.1"
        await super().stream_send(event)

    async def _send_h11_event(self, event: h11.Event) -> None:
        try:
            data = self._head + (self.connection.send(event) or b"")
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        waits = self._framed and isinstance(event, h11.Response)
        self._head = data if waits else b""
        if not waits:
            await self.send(RawData(data))

    async def _create_stream(self, request: h11.Request) -> None:
        headers = [(name, value) for name, value in request.headers if name != b"upgrade"]
        target = request.target
        if absolute := _ABSOLUTE.fullmatch(target):  # as to a proxy; Host counts for nothing then
            headers = [(name, absolute[1] if name == b"host" else value) for name, value in headers]
            target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
        if absolute or len(headers) < len(request.headers):
            request = h11.Request(
                method=request.method, target=target, headers=headers, http_version=request.http_version
            )
        await super()._create_stream(request)

    async def _send_error_response(self, status_code: int) -> None:
        """What arrives is no HTTP/1.1, or none that is read here: no application sees it."""
        body = refusal(status_code)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            *self.config.response_headers("h11"),
        ]
        self._framed = True
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _check_protocol(self, event: h11.Request) -> None:
        if event.method == b"PRI":
            await super()._check_protocol(event)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection:
    """One client's. `patience`: seconds that what lies in the buffers may take to leave at the end."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        patience: float,
    ) -> None:
        self._app = app
        self._config = config
        self._context = context
        self._reader = reader
        self._writer = writer
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._idle: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until either side closes; requests that have begun are told that their client has left."""
        try:
            async with TaskGroup(self._loop) as group:
                self._protocol = self._begin(group)
                await self._protocol.initiate()
                self._rest(idle=True)
                while data := await self._read():
                    await self._hear(group, data)
                await self._protocol.handle(Closed())
        finally:
            self._rest(idle=False)
            self._close()

    def close_if_idle(self) -> None:
        """Nothing new is accepted: whoever waits for a next request is closed, the others when they end."""
        if self._idle is not None:
            self._close()

    def _begin(self, group: TaskGroup) -> Protocol:
        tls = self._writer.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() == "h2":
            return self._http2(group)
        ends = self._address("peername"), self._address("sockname")
        state, secure = ConnectionState({}), tls is not None
        rest = (self._config, self._context, group, state, secure, *ends, self._send)
        return Http1(self._app, *rest, transport=self._writer.transport)

    def _http2(self, group: TaskGroup) -> Http2:
        ends = self._address("peername"), self._address("sockname")
        secure = self._writer.get_extra_info("ssl_object") is not None

        def new_stream(send: SendEvent, write: Write, id: int) -> HTTPStream:
            app, own = WithWrite(self._app, write), (self._config, self._context)
            return HTTPStream(app, *own, group, secure, *ends, send, id)

        return Http2(self._config, self._context, new_stream, self._send, self._writer.transport)

    def _address(self, which: str) -> tuple[str, int] | None:
        """None on a Unix socket."""
        family = self._writer.get_extra_info("socket").family
        return parse_socket_addr(family, self._writer.get_extra_info(which))

    async def _read(self) -> bytes:
        """Empty when the other side has ended, or is gone."""
        try:
            return await self._reader.read(_READ)
        except OSError:
            return b""

    async def _hear(self, group: TaskGroup, data: bytes) -> None:
        try:
            await self._protocol.handle(RawData(data))
        except H2ProtocolAssumedError as preface:
            self._protocol = self._http2(group)
            await self._protocol.initiate()
            self._rest(idle=True)
            await self._protocol.handle(RawData(preface.data))

    async def _send(self, event: Event) -> None:
        """What a protocol has to say. Bytes are in the transport before anything is awaited."""
        match event:
            case RawData(data):
                try:
                    self._writer.write(data)
                    await self._writer.drain()
                except (ConnectionError, RuntimeError):
                    await self._protocol.handle(Closed())
            case Updated(idle):
                self._rest(idle=idle)
            case Closed():
                self._close()

    def _rest(self, *, idle: bool) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        if idle and self._context.terminated.is_set():
            self._close()
        elif idle:
            self._idle = self._loop.call_later(self._config.keep_alive_timeout, self._close)

    def _close(self) -> None:
        """What is buffered leaves first, for as long as the client takes it."""
        if self._writer.is_closing():
            return
        self._writer.close()
        if self._writer.transport.get_write_buffer_size():
            self._loop.call_later(self._patience, self._writer.transport.abort)


async def serve(
    app: ASGIFramework,
    config: Config,
    listener: socket.socket,
    *,
    tls: ssl.SSLContext | None,
    patience: float,
    closing: asyncio.Event,
    on_ready: Callable[[], None],
) -> None:
    """Answer on a bound socket until `closing` is set, and then to the end of what has begun, for at most the
    config's graceful_timeout. `on_ready` is called when connections are accepted; `patience`: see Connection.
    """
    context = WorkerContext(None)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")
    connections: dict[asyncio.Task[None], Connection] = {}

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = connections[task] = Connection(
            wrapped, config, context, reader, writer, patience=patience
        )
        try:
            await connection.run()
        finally:
            del connections[task]

    share_with_the_past(listener)
    # The kernel holds those who come at once; one is taken in each turn of the loop, so that workers which
    # share the socket share them.
    server = await asyncio.start_server(
        accept,
        sock=listener,
        ssl=tls,
        backlog=1,
        ssl_handshake_timeout=None if tls is None else config.keep_alive_timeout,
    )
    listener.listen(_BACKLOG)
    on_ready()
    try:
        await closing.wait()
    finally:
        await context.terminated.set()
        server.close()
        for connection in list(connections.values()):
            connection.close_if_idle()
        if connections:
            await asyncio.wait(connections, timeout=config.graceful_timeout)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
