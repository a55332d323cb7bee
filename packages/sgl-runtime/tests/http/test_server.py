# SPDX-License-Identifier: Apache-2.0
"""How the api process ends: asked to, or because there is no engine any more."""

from __future__ import annotations

import asyncio
import http.client
import socket

import httpx
import pytest
from scripted import Script
from served import listening, parse_events

from sgl_runtime.http import server as server_module
from sgl_runtime.messages import Delta, StoppedByLength

pytestmark = pytest.mark.anyio
BODY = {"text": "hello", "sampling_params": {"temperature": 0}}


async def sent(script: Script, count: int = 1) -> None:
    async with asyncio.timeout(5):
        while len(script.generates) < count:
            await asyncio.sleep(0.001)


async def test_stop_answers_what_has_begun_and_refuses_what_is_new() -> None:
    script = Script(per_step=None)
    async with listening(script) as server, httpx.AsyncClient(base_url=server.url) as client:
        begun = asyncio.create_task(client.post("/generate", json=BODY))
        streamed = asyncio.create_task(client.post("/generate", json={**BODY, "stream": True}))
        await sent(script, 2)
        server.stop.set()
        await asyncio.sleep(0)
        refused = await client.post("/generate", json=BODY)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        assert (await client.get("/health")).status_code == 200
        assert not server.ending.done()
        script.say(*(Delta(generate.rid, [65], StoppedByLength(1)) for generate in script.generates))
        assert (await begun).json()["text"] == "A"
        assert [event["text"] for event in parse_events((await streamed).text)] == ["A"]
        async with asyncio.timeout(5):
            await server.ending
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")


async def test_an_idle_server_stops_at_once_whatever_connections_are_open() -> None:
    async with listening(Script()) as server, httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/health")).status_code == 200
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        server.stop.set()
        async with asyncio.timeout(1):
            await server.ending
        writer.close()


async def test_clients_that_are_stuck_do_not_hold_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """One never sends the rest of its body, one never reads its events."""
    script = Script(per_step=None)
    async with listening(script, drain_seconds=0.05) as server:
        _, silent = await asyncio.open_connection("127.0.0.1", server.port)
        silent.write(b'POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"text": "a"')
        _, deaf = await asyncio.open_connection("127.0.0.1", server.port)
        body = b'{"text": "a", "stream": true}'
        deaf.write(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        await sent(script)
        for _ in range(300):
            script.say(Delta(script.generates[0].rid, [65] * 1000))
        server.stop.set()
        async with asyncio.timeout(5):
            await server.ending
        silent.close()
        deaf.close()
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_what_does_not_end_in_time_is_cut_short() -> None:
    script = Script(per_step=None)
    async with (
        listening(script, drain_seconds=0.05) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        begun = asyncio.create_task(client.post("/generate", json=BODY))
        await sent(script)
        script.say(Delta(script.generates[0].rid, [65]))
        server.stop.set()
        answer = (await begun).json()
        assert answer["text"] == "A"
        assert answer["meta_info"]["finish_reason"] == {
            "type": "abort",
            "message": "the server is shutting down",
        }
        async with asyncio.timeout(5):
            await server.ending


async def test_an_engine_that_dies_while_the_server_drains_ends_the_wait() -> None:
    script = Script(per_step=None)
    async with (
        listening(script, drain_seconds=60) as server,
        httpx.AsyncClient(base_url=server.url) as client,
    ):
        begun = asyncio.create_task(client.post("/generate", json=BODY))
        await sent(script)
        server.stop.set()
        while (await client.post("/generate", json=BODY)).status_code != 503:
            pass
        server.died.set_result("replica0 was killed by SIGKILL")
        assert (await begun).json()["error"]["message"] == "replica0 was killed by SIGKILL"
        async with asyncio.timeout(5):
            await server.ending


async def test_when_the_engine_dies_everybody_is_told() -> None:
    script = Script(per_step=None)
    async with listening(script) as server, httpx.AsyncClient(base_url=server.url) as client:
        begun = asyncio.create_task(client.post("/generate", json=BODY))
        streamed = asyncio.create_task(client.post("/generate", json={**BODY, "stream": True}))
        await sent(script, 2)
        script.say(Delta(script.generates[1].rid, [65]))
        server.died.set_result("replica0 was killed by SIGKILL")
        response = await begun
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "replica0 was killed by SIGKILL"
        last = (
            parse_events((await streamed).text)[-1]
            if (await streamed).status_code == 200
            else (await streamed).json()
        )
        assert last["error"]["message"] == "replica0 was killed by SIGKILL"
        async with asyncio.timeout(5):
            await server.ending


async def test_a_broken_channel_ends_the_process_with_its_cause() -> None:
    script = Script(per_step=None)
    async with listening(script) as server, httpx.AsyncClient(base_url=server.url) as client:
        begun = asyncio.create_task(client.post("/generate", json=BODY))
        await sent(script)
        script.break_down(ValueError("Expected `array`, got `int`"))
        response = await begun
        assert (response.status_code, "channel" in response.text) == (500, True)
        async with asyncio.timeout(5):
            with pytest.raises(ValueError, match="Expected `array`"):
                await server.ending


@pytest.mark.parametrize(("version", "chunked"), [("1.1", True), ("1.0", False)])
async def test_a_stream_is_divided_into_chunks_where_the_client_knows_them(
    version: str, chunked: bool
) -> None:
    """By what the standard library makes of it, and to the end of the connection for those that do not."""
    body = b'{"text": "hello", "stream": true, "sampling_params": {"temperature": 0}}'
    head = f"POST /generate HTTP/{version}\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"

    def ask(port: int) -> tuple[http.client.HTTPResponse, bytes]:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(head.encode() + body)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response, response.read()

    async with listening(Script()) as server:
        response, data = await asyncio.to_thread(ask, server.port)
    assert (response.getheader("transfer-encoding") == "chunked") == chunked
    assert parse_events(data.decode())[-1]["text"] == "HELLO"


async def test_memory_is_given_back_once_whenever_all_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    script = Script(per_step=None)
    monkeypatch.setattr(server_module, "QUIET_S", 0.02)
    monkeypatch.setattr(server_module, "give_back", lambda: given.append(len(script.generates)))

    async def answered(client: httpx.AsyncClient) -> None:
        asked, count = asyncio.create_task(client.post("/generate", json=BODY)), len(script.generates)
        await sent(script, count + 1)
        await asyncio.sleep(0.1)
        script.say(Delta(script.generates[-1].rid, [65], StoppedByLength(1)))
        assert (await asked).status_code == 200
        await asyncio.sleep(0.1)

    async with listening(script) as server, httpx.AsyncClient(base_url=server.url) as client:
        await asyncio.sleep(0.1)
        assert not given, "nothing was asked yet"
        await answered(client)
        assert given == [1], "not while it was in flight"
        await answered(client)
        assert given == [1, 2]
