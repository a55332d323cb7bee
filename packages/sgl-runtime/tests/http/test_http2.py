# SPDX-License-Identifier: Apache-2.0
"""HTTP/2: the limits of HTTP/1.1 hold for every stream, and no stream holds another."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from h2 import events as frames
from h2.errors import ErrorCodes
from http2_client import connected
from scripted import Script
from served import listening, parse_events

from sgl_runtime.http import http2
from sgl_runtime.messages import Delta, StoppedByLength

pytestmark = pytest.mark.anyio
STREAM = b'{"text": "a", "stream": true, "sampling_params": {"temperature": 0}}'
WHOLE = b'{"text": "a", "sampling_params": {"temperature": 0}}'


async def sent(script: Script, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(script.generates) < count:
            await asyncio.sleep(0.001)


async def test_requests_share_a_connection() -> None:
    async with listening(Script()) as server, connected(server.port) as client:
        streamed, whole, missing = (
            client.ask("/generate", STREAM),
            client.ask("/generate", WHOLE),
            client.ask("/no"),
        )
        for id in (streamed, whole, missing):
            await client.until(frames.StreamEnded, id)
        assert [client.status(id) for id in (streamed, whole, missing)] == ["200", "200", "404"]
        assert parse_events(client.body(streamed).decode())[-1]["text"] == "A"
        assert b'"text":"A"' in client.body(whole)


async def test_who_does_not_read_one_stream_loses_that_one_and_holds_no_other() -> None:
    script = Script(per_step=None)
    async with listening(script, send_timeout=0.3) as server, connected(server.port, window=2000) as client:
        deaf = client.ask("/generate", STREAM)
        await sent(script)
        rid, said = script.generates[0].rid, 0
        async with asyncio.timeout(5):
            while not script.aborts:
                script.say(Delta(rid, [65] * 100))
                said += 100
                other = client.ask("/health")
                await client.until(frames.StreamEnded, other)
                await asyncio.sleep(0.01)
        assert script.aborts == [rid]
        reset = await client.until(frames.StreamReset, deaf)
        assert isinstance(reset, frames.StreamReset) and reset.error_code == ErrorCodes.INTERNAL_ERROR
        assert len(client.body(deaf)) == 2000
        assert not [event for event in client.said if isinstance(event, frames.ConnectionTerminated)]
        whole = client.ask("/generate", WHOLE)
        await sent(script, 2)
        script.say(Delta(script.generates[1].rid, [66], StoppedByLength(1)))
        await client.until(frames.StreamEnded, whole)


async def test_a_window_that_opens_slowly_gets_all_of_the_answer() -> None:
    script = Script(per_step=None)
    async with listening(script, send_timeout=1.0) as server, connected(server.port, window=50) as client:
        slow = client.ask("/generate", STREAM)
        await sent(script)
        for _ in range(5):
            script.say(Delta(script.generates[0].rid, [65] * 10))
        script.say(Delta(script.generates[0].rid, [66], StoppedByLength(51)))
        while not client.ended(slow):
            client.take(slow, 100)
            await client.read()
        assert parse_events(client.body(slow).decode())[-1]["text"] == "A" * 50 + "B"


async def test_a_connection_whose_window_is_spent_loses_its_streams_and_no_other_connection_does() -> None:
    script = Script(per_step=None)
    async with listening(script, send_timeout=0.3) as server, connected(server.port, window=0) as client:
        ids = [client.ask("/generate", WHOLE) for _ in range(3)]
        await sent(script, 3)
        for generate in script.generates:
            script.say(Delta(generate.rid, [65], StoppedByLength(1)))
        async with connected(server.port) as other:
            await other.until(frames.StreamEnded, other.ask("/health"))
        for id in ids:
            await client.until(frames.StreamReset, id)


async def test_resets_without_end_end_the_connection_and_leave_no_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2, "_RESETS", 20.0)
    monkeypatch.setattr(http2, "_RESETS_A_SECOND", 0.0)
    script = Script(per_step=None)
    async with listening(script) as server, connected(server.port) as client:
        for _ in range(40):
            id = client.ask("/generate", b'{"text":"a"}')
            client.frames.reset_stream(id)
            client.flush()
            await asyncio.sleep(0)
        await client.end()
        async with asyncio.timeout(5):
            while len(script.aborts) < len(script.generates):
                await asyncio.sleep(0.01)
        assert len(script.generates) <= 21
        async with httpx.AsyncClient() as other:
            assert (await other.get(server.url + "/health")).status_code == 200


async def test_a_reset_aborts_its_request_and_no_other() -> None:
    script = Script(per_step=None)
    async with listening(script) as server, connected(server.port) as client:
        left, kept = client.ask("/generate", STREAM), client.ask("/generate", WHOLE)
        await sent(script, 2)
        client.frames.reset_stream(left)
        client.flush()
        async with asyncio.timeout(5):
            while not script.aborts:
                await asyncio.sleep(0.001)
        assert len(script.aborts) == 1
        rid = next(generate.rid for generate in script.generates if generate.rid not in script.aborts)
        script.say(Delta(rid, [65], StoppedByLength(1)))
        await client.until(frames.StreamEnded, kept)


@pytest.mark.parametrize(("config", "status"), [({"body_timeout": 0.05}, "408"), ({"api_key": "key"}, "401")])
async def test_a_body_that_comes_after_its_answer_is_dropped(config: dict[str, Any], status: str) -> None:
    async with listening(Script(), **config) as server, connected(server.port) as client:
        late = client.ask("/generate", b'{"text": ', end=False)
        await client.until(frames.StreamEnded, late)
        reset = await client.until(frames.StreamReset, late)
        assert isinstance(reset, frames.StreamReset) and reset.error_code == ErrorCodes.NO_ERROR
        assert client.status(late) == status
        await client.until(frames.StreamEnded, client.ask("/health"))
        assert not client.over


async def test_a_body_is_too_large_on_one_stream_alone() -> None:
    async with listening(Script(), max_body_size=1000) as server, connected(server.port) as client:
        large = client.ask("/generate", b"x" * 5000)
        whole = client.ask("/generate", WHOLE)
        await client.until(frames.StreamEnded, large)
        await client.until(frames.StreamEnded, whole)
        assert (client.status(large), client.status(whole)) == ("413", "200")


@pytest.mark.parametrize("begun", [b"", b"\0\0\x20\x01\0\0\0\0\1half of a header"])
async def test_a_connection_that_asks_nothing_is_closed(begun: bytes) -> None:
    async with listening(Script(), keep_alive_timeout=0.1) as server, connected(server.port) as client:
        client.writer.write(begun)
        await client.end()


@pytest.mark.parametrize(
    "headers",
    [
        [(":method", "CONNECT"), (":authority", "x:80")],
        [(":method", "GET"), (":scheme", "http"), (":authority", "x"), (":path", "/h\xe4")],
    ],
)
async def test_what_is_no_request_is_reset(headers: list[tuple[str, str]]) -> None:
    async with listening(Script()) as server, connected(server.port) as client:
        client.frames.config.validate_outbound_headers = False
        id = client.frames.get_next_available_stream_id()
        client.frames.send_headers(id, headers, end_stream=True)
        client.flush()
        await client.until(frames.StreamReset, id)
        await client.until(frames.StreamEnded, client.ask("/health"))


async def test_bytes_that_are_no_frames_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(Script()) as server:
        for nonsense in (
            b"\0\0\x01\x06\0\0\0\0\0x",
            b"\0\0\x04\x08\0\0\0\0\1\0\0\0\0",
            b"\0\0\0\x01\x05\0\0\0\2",
        ):
            async with connected(server.port) as client:
                client.writer.write(nonsense)
                await client.end()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_stop_lets_streams_end_and_says_goodbye() -> None:
    script = Script(per_step=None)
    async with listening(script) as server, connected(server.port) as client:
        id = client.ask("/generate", WHOLE)
        await sent(script)
        server.stop.set()
        await asyncio.sleep(0.01)
        refused = client.ask("/generate", WHOLE)
        await client.until(frames.StreamEnded, refused)
        assert client.status(refused) == "503"
        script.say(Delta(script.generates[0].rid, [65], StoppedByLength(1)))
        await client.until(frames.StreamEnded, id)
        async with asyncio.timeout(5):
            await server.ending
        await client.end()


async def test_an_upgrade_to_http2_is_not_taken() -> None:
    async with listening(Script()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        upgrade = (
            b"Connection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
        )
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n")
        async with asyncio.timeout(5):
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
