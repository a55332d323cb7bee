# SPDX-License-Identifier: Apache-2.0
"""Requests as no client writes them, byte by byte on a socket: each is refused, or answered rightly."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
import pytest
from scripted import Script
from served import listening, served

pytestmark = pytest.mark.anyio
BODY = b'{"text": "a", "sampling_params": {"temperature": 0}}'


def request(
    *headers: bytes,
    method: bytes = b"POST",
    path: bytes = b"/generate",
    body: bytes = BODY,
    host: bytes = b"localhost",
    length: bool = True,
) -> bytes:
    lines = [method + b" " + path + b" HTTP/1.1", b"Host: " + host, b"Connection: close, Upgrade", *headers]
    if length:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def get(path: bytes, **fields: Any) -> bytes:
    return request(method=fields.pop("method", b"GET"), path=path, body=b"", **fields)


CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
WEBSOCKET = (
    b"x\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg=="
)
# What is sent, the status, and the protocol in whose shape the error is; None: there is none, or no body.
CASES: dict[str, tuple[bytes, int, str | None]] = {
    "as usual": (request(), 200, None),
    "chunked": (request(b"Transfer-Encoding: chunked", body=CHUNKED, length=False), 200, None),
    "two lengths": (request(b"Content-Length: 5"), 400, "openai"),
    "a negative length": (request(b"Content-Length: -1", length=False), 400, "openai"),
    "a length that is no number": (request(b"Content-Length: 1e3", length=False), 400, "openai"),
    "length and chunks": (request(b"Transfer-Encoding: chunked", body=CHUNKED), 400, "native"),
    "no chunk": (request(b"Transfer-Encoding: chunked", body=b"zz\r\n", length=False), 400, "openai"),
    "gzip": (request(b"Content-Encoding: gzip", body=gzip.compress(BODY)), 415, "native"),
    "two codings": (request(b"Content-Encoding: identity, br"), 415, "native"),
    "no coding": (request(b"Content-Encoding: identity"), 200, None),
    "another type": (request(b"Content-Type: text/xml"), 200, None),
    "a type that is none": (request(b"Content-Type: \xff;;;"), 200, None),
    "UTF-16": (
        request(b"Content-Type: application/json; charset=utf-16", body=BODY.decode().encode("utf-16")),
        400,
        "native",
    ),
    "a zero byte": (request(body=b'{"text": "a\x00"}'), 400, "native"),
    "deep": (request(body=b"[" * 200_000), 400, "native"),
    "a huge number": (request(body=b'{"text": ' + b"9" * 100_000 + b"}"), 400, "native"),
    "a huge header": (get(b"/health", host=b"x\r\nX-A: " + b"a" * 100_000), 431, "openai"),
    "two hosts": (get(b"/health", host=b"x\r\nHost: y"), 400, "openai"),
    "a host with a path": (get(b"/v1/none", host=b"x/generate?a=#"), 404, "openai"),
    "a host that is no address": (get(b"/v1/messages/none", host=b"[::1"), 404, "anthropic"),
    "a host of other bytes": (get(b"/v1/none", host=b"\xff\xfe"), 404, "openai"),
    "a method of another path": (request(method=b"PUT", path=b"/v1/messages"), 405, "anthropic"),
    "a method that is none": (request(method=b"FOO", path=b"/v1/completions"), 405, "openai"),
    "trace": (get(b"/v1/models", method=b"TRACE"), 405, "openai"),
    "options": (get(b"/v1/chat/completions", method=b"OPTIONS"), 405, "openai"),
    "options of all": (get(b"*", method=b"OPTIONS"), 404, "native"),
    "head": (get(b"/v1/models", method=b"HEAD"), 200, None),
    "head of a post": (get(b"/generate", method=b"HEAD"), 405, None),
    "an encoded slash": (get(b"/v1/models/a%2Fb"), 404, "openai"),
    "an encoded zero": (get(b"/v1/models/%00"), 404, "openai"),
    "an encoded line": (get(b"/v1/none/%0d%0aX-A:b"), 404, "openai"),
    "encoded badly": (get(b"/v1/models/%ff%zz%"), 404, "openai"),
    "a slash at the end": (request(path=b"/v1/completions/", host=b"elsewhere"), 404, "openai"),
    "up": (get(b"/v1/../health"), 404, "openai"),
    "a long path": (get(b"/v1/" + b"a" * 60_000), 404, "openai"),
    "a longer path": (get(b"/" + b"a" * 200_000), 431, "openai"),
    "other bytes in a path": (get("/v1/models/é".encode()), 400, "openai"),
    "a query": (request(path=b"/generate?x=%ff&" + b"a=b&" * 1000), 200, None),
    "no HTTP": (b"\x16\x03\x01\x00\xa5\r\n\r\n", 400, "openai"),
    "a websocket": (get(b"/generate", host=WEBSOCKET), 405, "native"),
    "a websocket of no kind": (get(b"/v1/models", host=b"x\r\nUpgrade: websocket"), 200, None),
    "a coding that is none": (request(b"Transfer-Encoding: gzip", length=False), 501, "openai"),
    "head with lengths": (get(b"/health", method=b"HEAD", host=b"x\r\nContent-Length: 1"), 400, "openai"),
    "absolute": (get(b"http://a.example/v1/models"), 200, None),
    "absolute, of another scheme": (request(path=b"HTTPS://a.example:443/generate"), 200, None),
    "absolute without a path": (request(path=b"http://a.example"), 405, "native"),
    "absolute with a query": (request(path=b"http://a.example?x=/generate"), 405, "native"),
    "absolute and not there": (get(b"http://a.example/v1/http://none"), 404, "openai"),
    "absolute without a host": (get(b"http:///health"), 404, "native"),
    "another protocol": (get(b"/v1/models", host=b"x\r\nUpgrade: h2c"), 200, None),
}


async def raw(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the one answer that comes before the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    async with asyncio.timeout(30):
        answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin1").split("\r\n")
    return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines), body


def shape_of(body: bytes) -> str:
    answer = json.loads(body)
    assert answer["error"]["message"]
    if answer.get("type") == "error":
        assert answer["error"]["type"]
        return "anthropic"
    return "openai" if set(answer["error"]) == {"message", "type", "param", "code"} else "native"


async def test_whatever_is_sent_has_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    script = Script()
    async with listening(script, keep_alive_timeout=20.0, allowed_hosts=("*",)) as server:
        for name, (data, expected, shape) in CASES.items():
            before = len(script.generates)
            try:
                status, headers, body = await raw(server.port, data)
            except ConnectionResetError:
                assert expected == 431, name  # what had not been read may cost the client its answer
                continue
            assert status == expected, (name, status, body[:200])
            assert (shape_of(body) if shape else None) == shape, (name, body[:200])
            assert len(body) < 2000, name
            assert "location" not in headers, name
            if status == 405:
                assert headers["allow"], name
            assert len(script.generates) - before == (status == 200 and b"POST" in data[:4]), name
        async with httpx.AsyncClient() as client:
            assert (await client.get(server.url + "/health")).status_code == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


async def test_who_asks_whether_to_go_on_is_told_so() -> None:
    async with listening(Script()) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(b"Expect: 100-continue").removesuffix(BODY))
        async with asyncio.timeout(30):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            writer.write(BODY)
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_a_method_that_a_path_lacks_is_told_all_that_it_has() -> None:
    async with served() as server:
        for path, methods in (
            ("/v1/responses/x", "DELETE, GET, HEAD"),
            ("/generate", "POST, PUT"),
            ("/flush_cache", "GET, HEAD, POST"),
        ):
            response = await server.http.request("PATCH", path)
            assert (response.status_code, response.headers["allow"]) == (405, methods)


async def test_a_byte_order_mark_is_named() -> None:
    async with served() as server:
        response = await server.post("/generate", b"\xef\xbb\xbf" + BODY)
        assert (response.status_code, "byte order mark" in response.text) == (400, True)
