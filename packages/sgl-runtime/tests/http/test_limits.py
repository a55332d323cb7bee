# SPDX-License-Identifier: Apache-2.0
"""Clients that send too much, too slowly, or do not read: none holds the server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from scripted import CAPACITY, Script
from served import listening, served
from starlette.types import Message, Receive, Scope, Send

from sgl_runtime.http.limits import Bodies, Limits
from sgl_runtime.messages import Delta

pytestmark = pytest.mark.anyio
BODY = {"text": "hello", "sampling_params": {"temperature": 0}}


async def raw(port: int, data: bytes) -> bytes:
    """Everything that comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_a_body_that_does_not_arrive_is_408_and_the_connection_ends() -> None:
    begun = b'POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"prompt": "a"'
    async with listening(Script(), body_timeout=0.05) as server:
        answer = await raw(server.port, begun)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"--body-timeout" in answer
        assert b'"type":"invalid_request_error"' in answer


@pytest.mark.parametrize("path", [b"/generate", b"/v1/none"])
async def test_who_is_refused_before_his_body_has_arrived_hears_it(path: bytes) -> None:
    body = b"x" * 3_000_000
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    async with listening(Script(), api_key="secret", max_body_size=1000) as server:
        answer = await raw(server.port, head % (path, len(body)) + body)
        assert answer.startswith(b"HTTP/1.1 401")
    async with listening(Script()) as server:
        answer = await raw(server.port, head % (b"/v1/none", len(body)) + body)
        assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("data", [b"", b"POST /generate HTTP/1.1\r\nHost: localhost\r\nX-Slow"])
async def test_headers_that_do_not_arrive_end_the_connection(data: bytes) -> None:
    async with listening(Script(), keep_alive_timeout=0.1) as server:
        assert b"200" not in await raw(server.port, data)


async def test_a_slow_body_and_a_long_answer_are_not_cut_by_the_idle_timeout() -> None:
    script = Script(per_step=None)
    async with listening(script, keep_alive_timeout=0.05) as server, httpx.AsyncClient() as client:

        async def slowly() -> object:
            for piece in (b'{"te', b'xt": ', b'"a"}'):
                await asyncio.sleep(0.05)
                yield piece

        asked = asyncio.create_task(client.post(server.url + "/generate", content=slowly()))  # type: ignore[arg-type]
        async with asyncio.timeout(5):
            while not script.generates:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.15)
        for delta in script.deltas(script.generates[0], 3):
            script.say(delta)
        assert (await asked).json()["text"] == "A"


async def test_who_does_not_read_is_dropped_and_his_request_aborted(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(per_step=None)
    async with listening(script, send_timeout=0.2) as server:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.port))
        body = b'{"text": "a", "stream": true, "sampling_params": {"max_new_tokens": 400}}'
        deaf.sendall(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        async with asyncio.timeout(10):
            while not script.generates:
                await asyncio.sleep(0.01)
            while not script.aborts:
                script.say(Delta(script.generates[0].rid, [65] * 3000))
                await asyncio.sleep(0.01)
            # The kernel ends what lies below: the client finds its connection broken.
            await asyncio.sleep(0.5)
        deaf.settimeout(5)
        with pytest.raises(ConnectionError):
            while deaf.recv(65536):
                pass
            raise ConnectionError  # an end of file is as good
        deaf.close()
        async with httpx.AsyncClient() as client:
            assert (await client.get(server.url + "/health")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_on_a_unix_socket_who_does_not_read_is_dropped_too(tmp_path: Path) -> None:
    """There the kernel has no limit of its own."""
    script, path = Script(per_step=None), tmp_path / "s"
    async with listening(script, uds=path, send_timeout=0.2) as server:
        reader, deaf = await asyncio.open_unix_connection(path, limit=1024)
        body = b'{"text": "a", "stream": true}'
        deaf.write(
            b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        async with asyncio.timeout(10):
            while not script.generates:
                await asyncio.sleep(0.01)
            while not script.aborts:
                script.say(Delta(script.generates[0].rid, [65] * 3000))
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert b"[DONE]" not in await reader.read()  # and then there is an end
        deaf.close()
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert (await client.get("/health")).status_code == 200
        assert not server.ending.done()


async def test_a_piece_that_nobody_takes_cancels_the_work(caplog: pytest.LogCaptureFixture) -> None:
    """As above, but where the kernel does not know: behind HTTP/2, or on a Unix socket."""
    undone: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        finally:
            undone.append("yes")

    async def deaf(message: object) -> None:
        await asyncio.Event().wait()

    async def silent() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    limited = Limits(app, bodies=Bodies(1, 1, "--max-body-size"), send_seconds=0.05)
    await limited({"type": "http", "path": "/x", "http_version": "1.1", "headers": []}, silent, deaf)
    assert undone == ["yes"]
    assert "/x: its client took nothing for 0.05 s and was dropped" in caplog.text


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/messages"])
async def test_overload_says_when_to_come_again(path: str) -> None:
    bodies = {
        "/generate": {"text": "b"},
        "/v1/completions": {"prompt": "b"},
        "/v1/messages": {
            "model": "default",
            "max_tokens": 4,
            "messages": [{"role": "user", "content": "b"}],
        },
    }
    async with served(Script(per_step=None), max_queued_requests=1) as server:
        asked = [asyncio.create_task(server.post("/generate", BODY)) for _ in range(CAPACITY.rows + 1)]
        await asyncio.sleep(0.01)
        refused = await server.post(path, bodies[path])
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        await server.answer("/abort_request", {"abort_all": True})
        await asyncio.gather(*asked)


async def test_a_prompt_that_cannot_fit_is_not_tokenised(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as server:
        assert server.api.tokenizer is not None
        monkeypatch.setattr(server.api.tokenizer, "encode", None)
        response = await server.post("/generate", {"text": "x" * 10_000})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "text"
    assert "10000 characters cannot fit" in response.json()["error"]["message"]


async def test_other_origins_are_let_in_only_where_they_are_named() -> None:
    asked = {"origin": "https://a.example", "access-control-request-method": "POST"}
    async with served(api_key="secret") as server:
        assert "access-control-allow-origin" not in (await server.http.get("/health", headers=asked)).headers
        assert (await server.http.options("/generate", headers=asked)).status_code == 401
    async with served(api_key="secret", cors_allow_origins=("https://a.example",)) as server:
        allowed = await server.http.options("/generate", headers=asked)
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://a.example"
        refused = await server.http.post("/generate", json=BODY, headers=asked)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://a.example"
        other = await server.http.get("/health", headers={**asked, "origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers
