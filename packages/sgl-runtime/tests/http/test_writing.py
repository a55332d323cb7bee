# SPDX-License-Identifier: Apache-2.0
"""Pieces that are written at once: the same bytes in the same order, and none where somebody must wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from h2 import events as frames
from http2_client import connected
from hypercorn.config import Config
from starlette.types import Receive, Scope, Send

from sgl_runtime.address import bind_port
from sgl_runtime.http.connection import serve
from sgl_runtime.http.writing import write_of

pytestmark = pytest.mark.anyio
PIECES = [b"%05d," % index for index in range(1000)]
WHOLE = b"".join(PIECES)


class Answering:
    """Every request is answered by PIECES; `written`: which of them were written at once."""

    def __init__(self, pieces: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
        self.pieces = pieces
        self.headers = headers
        self.written: list[bool] = []
        self.ended = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write = write_of(scope)
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        for piece in self.pieces:
            self.written.append(write(piece))
            if not self.written[-1]:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        self.ended.set()


@asynccontextmanager
async def answering(
    pieces: list[bytes] = PIECES, headers: list[tuple[bytes, bytes]] | None = None, port: int = 0
) -> AsyncIterator[tuple[Answering, int]]:
    app = Answering(pieces, headers or [])
    listener = bind_port("127.0.0.1", port)
    port, ready, closing = listener.getsockname()[1], asyncio.Event(), asyncio.Event()
    settings = Config()
    settings.graceful_timeout = 0.1
    serving = asyncio.create_task(
        serve(app, settings, listener, tls=None, patience=1.0, closing=closing, on_ready=ready.set)
    )
    await ready.wait()
    try:
        yield app, port
    finally:
        closing.set()
        await serving


async def ask(port: int, version: bytes = b"1.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/%s\r\nHost: x\r\nConnection: close\r\n\r\n" % version)
    return reader, writer


async def test_the_next_server_on_the_port_does_not_wait_for_what_the_last_one_closed() -> None:
    port = 0
    for _ in range(3):
        async with answering(port=port) as (_, port):
            reader, writer = await ask(port)
            assert (await reader.read()).endswith(b"\r\n0\r\n\r\n")
            writer.close()


async def test_all_that_waits_for_nobody_is_written_at_once() -> None:
    async with answering() as (app, port), httpx.AsyncClient() as client:
        for _ in range(2):  # on one connection
            assert (await client.get(f"http://127.0.0.1:{port}/")).content == WHOLE
        assert len(app.written) == 2 * len(PIECES) and all(app.written)


async def test_who_does_not_read_is_waited_for() -> None:
    large = [piece * 20_000 for piece in PIECES[:200]]  # 120 KB each
    async with answering(large) as (app, port):
        reader, writer = await ask(port)
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        async with asyncio.timeout(5):
            while app.written[-1:] != [False]:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(app.written) < len(large) / 2, "buffers end somewhere"
        writer.close()
        await asyncio.wait_for(app.ended.wait(), 5)
        assert not any(app.written[-10:]), "nothing is written to who has left"


@pytest.mark.parametrize(
    ("version", "headers"), [(b"1.0", []), (b"1.1", [(b"content-length", b"%d" % len(WHOLE))])]
)
async def test_a_body_without_chunks_is_left_to_send(
    version: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    async with answering(headers=headers) as (app, port):
        reader, writer = await ask(port, version)
        assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"\r\n\r\n" + WHOLE)
        writer.close()
    assert not any(app.written)


async def test_a_stream_of_http2_is_written_as_far_as_its_window_goes() -> None:
    async with answering() as (app, port), connected(port, window=50) as client:
        id = client.ask("/")
        while len(client.body(id)) < 50:
            await client.read()
        assert app.written == [True] * 8 + [False]
        client.take(id, len(WHOLE))
        await client.until(frames.StreamEnded, id)
        assert client.body(id) == WHOLE
        assert sum(app.written) == len(PIECES) - 1


async def test_nothing_is_written_to_a_stream_of_http2_that_was_left() -> None:
    async with answering() as (app, port), connected(port, window=50) as client:
        id = client.ask("/")
        while len(client.body(id)) < 50:
            await client.read()
        client.frames.reset_stream(id)
        client.flush()
        await asyncio.wait_for(app.ended.wait(), 5)
        assert not any(app.written[8:])
