# SPDX-License-Identifier: Apache-2.0
"""`Http2`: one HTTP/2 connection, as streams of hypercorn's over the frames of h2.

Nothing is buffered here: who sends a piece of an answer waits until its stream and its connection have room
for it, so that a client which does not read is noticed where it is noticed in HTTP/1.1, and holds no other
stream. An answer that does not come to its end is reset, and a client that resets without end is sent away.
Priorities are ignored, as RFC 9113 has none. Knows no sockets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from h2 import events as frames
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState, WorkerContext
from hypercorn.utils import filter_pseudo_headers

from sgl_runtime.http.writing import Write, is_clear

# What a client may reset at once, and a second from then on: far more than people who change their minds.
_RESETS, _RESETS_A_SECOND = 1000.0, 33.0
_OF_CONNECTIONS = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding")
)  # HTTP/2 has no such headers

SendEvent: TypeAlias = Callable[[StreamEvent], Awaitable[None]]
NewStream: TypeAlias = Callable[[SendEvent, Write, int], HTTPStream]
Send: TypeAlias = Callable[[Event], Awaitable[None]]


class _Stream:
    """A request and its answer."""

    def __init__(self, http: HTTPStream) -> None:
        self.http = http
        self.asked = False  # the request is complete
        self.answered = False  # the answer is
        self.room = asyncio.Event()  # its window, or the connection's, has grown


class Http2:
    """hypercorn's kind of protocol: `initiate`, `handle` for what comes, `stream_send` for what goes."""

    def __init__(
        self,
        config: Config,
        context: WorkerContext,
        new_stream: NewStream,
        send: Send,
        transport: asyncio.WriteTransport,
    ) -> None:
        self._config = config
        self._context = context
        self._new_stream = new_stream
        self._send = send
        self._transport = transport
        self._streams: dict[int, _Stream] = {}
        self._resets = _RESETS
        self._reset_at = asyncio.get_running_loop().time()
        self._connection = H2Connection(config=H2Configuration(client_side=False, header_encoding=None))
        self._connection.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: config.h2_max_concurrent_streams,
                SettingCodes.MAX_HEADER_LIST_SIZE: config.h2_max_header_list_size,
            },
        )

    async def initiate(self) -> None:
        self._connection.initiate_connection()
        await self._flush()

    async def handle(self, event: Event) -> None:
        """Bytes have come, or the connection has ended."""
        match event:
            case RawData(data):
                try:
                    for frame in self._connection.receive_data(data):
                        await self._on(frame)
                    await self._flush()
                except ProtocolError:
                    await self._flush()  # h2 has said goodbye
                    await self._send(Closed())
            case Closed():
                for id in list(self._streams):
                    await self._drop(id)

    async def stream_send(self, event: StreamEvent) -> None:
        """The application sends; nothing happens on a stream that its client has left."""
        id = event.stream_id
        if (stream := self._streams.get(id)) is None:
            return
        try:
            match event:
                case Response():
                    self._connection.send_headers(id, self._headers(event))
                    await self._flush()
                case Body(data=data):
                    await self._write(id, stream, data)
                case EndBody():
                    self._connection.end_stream(id)
                    stream.answered = True
                    await self._flush()
                case StreamClosed():
                    await self._end(id, stream)
        except ProtocolError:  # it was left just now
            return

    def write(self, id: int, data: bytes) -> bool:
        """See http.writing; nothing happens on a stream that its client has left."""
        if id not in self._streams or not is_clear(self._transport):
            return False
        try:
            self._connection.send_data(id, data)
        except ProtocolError:  # its window is too small, or it was left just now
            return False
        self._transport.write(self._connection.data_to_send())
        return True

    # -- what goes

    def _headers(self, response: Response) -> list[tuple[bytes, bytes]]:
        own = [(name, value) for name, value in response.headers if name.lower() not in _OF_CONNECTIONS]
        return [(b":status", b"%d" % response.status_code), *own, *self._config.response_headers("h2")]

    async def _write(self, id: int, stream: _Stream, data: bytes) -> None:
        """As the client makes room for it."""
        at = 0
        while at < len(data) and self._streams.get(id) is stream:
            window = self._connection.local_flow_control_window(id)
            room = min(window, self._connection.max_outbound_frame_size)
            if room <= 0:
                stream.room.clear()
                await stream.room.wait()
                continue
            self._connection.send_data(id, data[at : at + room])
            at += room
            await self._flush()

    async def _end(self, id: int, stream: _Stream) -> None:
        """The application has finished: with an answer, or without one."""
        if not stream.answered:
            self._connection.reset_stream(id, ErrorCodes.INTERNAL_ERROR)
        elif not stream.asked:  # the rest of the request is of no use
            self._connection.reset_stream(id, ErrorCodes.NO_ERROR)
        await self._drop(id)
        if not self._streams and self._context.terminated.is_set():
            self._connection.close_connection()
            await self._flush()
            await self._send(Closed())
            return
        await self._flush()

    async def _drop(self, id: int) -> None:
        """Forget the stream; its application hears that the client has left, if it is still at work."""
        stream = self._streams.pop(id)
        stream.room.set()
        await stream.http.handle(StreamClosed(stream_id=id))
        if not self._streams:
            await self._send(Updated(idle=True))

    async def _flush(self) -> None:
        # Nothing may be awaited between taking the bytes and handing them on: whoever is cancelled in between
        # would take other streams' frames with him.
        if data := self._connection.data_to_send():
            await self._send(RawData(data))

    # -- what comes

    async def _on(self, frame: frames.Event) -> None:
        match frame:
            case frames.RequestReceived():
                await self._begin(frame.stream_id, frame.headers)
            case frames.DataReceived(stream_id=id, data=data):
                if (stream := self._streams.get(id)) is not None:
                    await stream.http.handle(Body(stream_id=id, data=data))
                self._connection.acknowledge_received_data(frame.flow_controlled_length, id)
            case frames.StreamEnded(stream_id=id):
                if (stream := self._streams.get(id)) is not None:
                    stream.asked = True
                    await stream.http.handle(EndBody(stream_id=id))
            case frames.StreamReset(stream_id=id):
                self._count_reset()
                if id in self._streams:
                    await self._drop(id)
            case frames.WindowUpdated(stream_id=id):
                self._make_room(id)
            case frames.RemoteSettingsChanged(changed_settings=changed):
                if SettingCodes.INITIAL_WINDOW_SIZE in changed:
                    self._make_room(0)
            case frames.ConnectionTerminated():
                await self._send(Closed())

    async def _begin(self, id: int, headers: list[tuple[bytes, bytes]]) -> None:
        pseudo = {name: value for name, value in headers if name.startswith(b":")}
        method, path = pseudo[b":method"], pseudo.get(b":path", b"")
        if self._context.terminated.is_set():
            self._connection.reset_stream(id, ErrorCodes.REFUSED_STREAM)
            return
        if not (path and path.isascii() and method.isascii()):  # CONNECT has no path
            self._connection.reset_stream(id, ErrorCodes.PROTOCOL_ERROR)
            return
        if not self._streams:
            await self._send(Updated(idle=False))
        stream = self._streams[id] = _Stream(self._new_stream(self.stream_send, partial(self.write, id), id))
        await stream.http.handle(
            Request(
                stream_id=id,
                headers=filter_pseudo_headers(headers),
                http_version="2",
                method=method.decode().upper(),
                raw_path=path,
                state=ConnectionState({}),
            )
        )

    def _make_room(self, id: int) -> None:
        """In a stream's window, or for 0 in all of them."""
        for stream in self._streams.values() if id == 0 else filter(None, [self._streams.get(id)]):
            stream.room.set()

    def _count_reset(self) -> None:
        """Raises ProtocolError when there have been too many: each one has cost us the begin of a request."""
        now = asyncio.get_running_loop().time()
        self._resets = min(_RESETS, self._resets + (now - self._reset_at) * _RESETS_A_SECOND) - 1
        self._reset_at = now
        if self._resets < 0:
            self._connection.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ProtocolError("too many streams were reset")
