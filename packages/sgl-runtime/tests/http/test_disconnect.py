# SPDX-License-Identifier: Apache-2.0
"""A client that leaves frees its request at once, whatever it was waiting for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from scripted import CAPACITY, Script
from served import EMBEDDINGS, listening

from sgl_runtime.messages import Capacity, Delta

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.001)


async def ask(port: int, path: str, body: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request as bytes on a socket of our own, so that we decide when it closes."""
    data = msgspec.json.encode(body)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(data))
        + data
    )
    await writer.drain()
    return reader, writer


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", {"text": "hello"}),
        ("/generate", {"text": ["hello", "world"], "sampling_params": {"n": 2}}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
async def test_leaving(
    path: str, body: dict[str, Any], stream: bool, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    script = Script(per_step=None)
    async with listening(script) as server:
        reader, writer = await ask(server.port, path, {**body, "stream": stream})
        await until(lambda: script.generates)
        sent = [generate.rid for generate in script.generates]
        if begun:
            script.say(*(Delta(rid, [65]) for rid in sent))
            if stream:
                await reader.readuntil(b"data: ")
        writer.close()
        await until(lambda: script.aborts)
        assert sorted(script.aborts) == sorted(sent)
    assert [record for record in caplog.records if record.levelname != "INFO"] == [], "it is no incident"


@pytest.mark.parametrize(
    ("path", "body", "capacity", "samples"),
    [
        ("/encode", {"text": "a"}, EMBEDDINGS, 1),
        ("/v1/embeddings", {"input": ["a", "b"]}, EMBEDDINGS, 2),
        ("/v1/score", {"query": "a", "items": ["b", "c"], "label_token_ids": [1, 2]}, CAPACITY, 2),
        ("/v1/decisions", {"prompt": "a", "choices": ["b", "c"]}, CAPACITY, 2),
    ],
)
async def test_leaving_what_is_computed_and_not_generated(
    path: str, body: dict[str, Any], capacity: Capacity, samples: int
) -> None:
    script = Script(per_step=None)
    async with listening(script, capacity=capacity) as server:
        _, writer = await ask(server.port, path, body)
        await until(lambda: len(script.generates) == samples)
        writer.close()
        await until(lambda: len(script.aborts) == samples)
        assert sorted(script.aborts) == sorted(generate.rid for generate in script.generates)


async def test_leaving_while_the_server_cannot_write() -> None:
    """The client has stopped reading: the server waits in the middle of an event when it leaves."""
    script = Script(per_step=None)
    async with listening(script) as server:
        _, writer = await ask(server.port, "/generate", {"text": "hello", "stream": True})
        await until(lambda: script.generates)
        (generate,) = script.generates
        for _ in range(300):
            script.say(Delta(generate.rid, [65] * 1000))
        await asyncio.sleep(
            0.05
        )  # for the socket's buffers to fill; too short a time only makes the test weaker
        writer.transport.abort()
        await until(lambda: script.aborts == [generate.rid])


async def test_half_a_body_is_no_request() -> None:
    script = Script()
    async with listening(script) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b'POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"text": "a"')
        await writer.drain()
        writer.close()
        reader, writer = await ask(server.port, "/generate", {"text": "hello"})
        assert b"200" in await reader.readline()
        writer.close()
    assert len(script.generates) == 1


async def test_finished_requests_are_not_aborted_and_their_connection_is_used_again() -> None:
    script = Script()
    async with listening(script) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(3):
            writer.write(
                b'POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n{"text": "a"}'
            )
            assert b"200" in await reader.readline()
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()
        await writer.wait_closed()
    assert (len(script.generates), script.aborts) == (3, [])
