# SPDX-License-Identifier: Apache-2.0
"""A client of HTTP/2 that does what no client should: h2's frames, without anybody's manners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

from h2 import events as frames
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes


class Client:
    """`said` is what the server has sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.frames = H2Connection(config=H2Configuration(client_side=True, header_encoding="utf-8"))
        self.said: list[frames.Event] = []
        self.over = False
        self.writer = writer
        self._reader = reader

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        *,
        end: bool = True,
        headers: tuple[tuple[str, str], ...] = (),
        authority: str = "localhost",
    ) -> int:
        """Begin a request, with all of its body unless `end` is False; the id of its stream."""
        id = self.frames.get_next_available_stream_id()
        method = "GET" if body is None else "POST"
        pseudo = [(":method", method), (":scheme", "http"), (":authority", authority), (":path", path)]
        self.frames.send_headers(id, [*pseudo, *headers], end_stream=body is None)
        if body is not None:
            self.frames.send_data(id, body, end_stream=end)
        self.flush()
        return id

    def flush(self) -> None:
        self.writer.write(self.frames.data_to_send())

    async def until(
        self, kind: type[frames.Event], id: int | None = None, *, seconds: float = 5
    ) -> frames.Event:
        """The first event of that kind, of that stream if one is given."""
        async with asyncio.timeout(seconds):
            while True:
                for event in self.said:
                    if isinstance(event, kind) and id in (None, getattr(event, "stream_id", None)):
                        return event
                assert not self.over, self.said
                await self.read()

    async def read(self) -> None:
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        self.over = not data
        self.said += self.frames.receive_data(data)
        self.flush()

    async def end(self) -> None:
        """Read until the server closes."""
        async with asyncio.timeout(5):
            while not self.over:
                await self.read()

    def take(self, id: int, size: int) -> None:
        """Make room for so many bytes more."""
        self.frames.increment_flow_control_window(size, id)
        self.frames.increment_flow_control_window(size)
        self.flush()

    def status(self, id: int) -> str:
        (found,) = (dict(event.headers)[":status"] for event in self._of(frames.ResponseReceived, id))
        return str(found)

    def body(self, id: int) -> bytes:
        return b"".join(event.data for event in self._of(frames.DataReceived, id))

    def ended(self, id: int) -> bool:
        return any(self._of(frames.StreamEnded, id))

    def _of(self, kind: type, id: int) -> Iterator[Any]:
        return (event for event in self.said if isinstance(event, kind) and event.stream_id == id)


@asynccontextmanager
async def connected(port: int, *, window: int = 65535) -> AsyncIterator[Client]:
    """Without TLS, by prior knowledge; `window`: bytes of an answer that each stream takes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = Client(reader, writer)
    client.frames.initiate_connection()
    client.frames.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    client.frames.increment_flow_control_window(2**24)
    client.flush()
    try:
        while client.frames.local_settings.initial_window_size != window:
            await client.read()
        yield client
    finally:
        writer.close()
