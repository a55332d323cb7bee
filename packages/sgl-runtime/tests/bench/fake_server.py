# SPDX-License-Identifier: Apache-2.0
"""A server that follows a script, in a thread: OpenAI's endpoints and /generate, by somebody else's HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

# JSON, but of no protocol: what a stream says by its fault.
ODD: dict[str, list[Any]] = {
    "a list": [[1, 2]],
    "a number": [7],
    "no choice": [{"choices": [None], "meta_info": None}],
    "choices of no list": [{"choices": {"a": 1}, "meta_info": "b"}],
    "a word for a count": [
        {"choices": [], "usage": {"completion_tokens": "many"}, "meta_info": {"completion_tokens": "many"}}
    ],
    "less than nothing": [
        {"choices": [], "usage": {"completion_tokens": -5}, "meta_info": {"completion_tokens": -5}}
    ],
    "text of no letters": [{"choices": [{"text": 3}], "meta_info": {}, "text": 3}],
}

Answer = Callable[["FakeServer", dict[str, Any], web.Request], Any]


class FakeServer:
    """Answers every request with as many words as it asks for; keeps the bodies. `fault`: what goes wrong."""

    def __init__(self, *, vocab_size: int | None = 5000, usage: bool = True, fault: str = "") -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.in_flight = self.most_in_flight = 0
        self.url = ""
        self._vocab_size = vocab_size
        self._usage = usage
        self.fault = fault

    def app(self) -> web.Application:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_get("/v1/models", self._models)
        if self._vocab_size is not None:
            app.router.add_get("/get_model_info", self._info)
        app.router.add_post("/v1/completions", self._answer)
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/generate", self._answer)
        return app

    async def _models(self, request: web.Request) -> web.Response:
        if self.fault == "silent":
            await asyncio.sleep(20)
        return web.json_response({"data": [{"id": "a-model"}]})

    async def _info(self, request: web.Request) -> web.Response:
        return web.json_response({"vocab_size": self._vocab_size, "model_path": "/nowhere"})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.paths.append(request.path)
        self.keys.append(request.headers.get("Authorization"))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0.01)
            return await self._respond(request, body)
        finally:
            self.in_flight -= 1

    async def _respond(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        first = len(self.bodies) == 1  # of the warm-up, or the only one
        if self.fault == "500" or (self.fault == "later 500" and not first):
            return web.Response(status=500, text="the engine is on fire")
        native = request.path == "/generate"
        count = body["sampling_params"]["max_new_tokens"] if native else body["max_tokens"]
        make = native_events if native else chat_events if "messages" in body else completion_events
        events = list(make(body, count, usage=self._usage))
        if not body["stream"]:
            return web.json_response(whole(events, native=native, count=count, usage=self._usage))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        if self.fault == "error event":
            events = [events[0], {"error": {"message": "retracted"}}]
        events += ODD.get(self.fault, [])
        for event in events:
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if self.fault == "gone":
            assert request.transport is not None
            request.transport.abort()
            return response
        if self.fault == "not JSON":
            await response.write(b"data: {oops\n\n")
        if self.fault != "no end":
            await response.write(b"data: [DONE]\n\n")
        return response


def completion_events(body: dict[str, Any], count: int, *, usage: bool) -> Iterator[dict[str, Any]]:
    for _ in range(count):
        yield {"choices": [{"index": 0, "text": " a", "finish_reason": None}]}
    yield {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    if usage:
        yield {"choices": [], "usage": {"prompt_tokens": len(body["prompt"]), "completion_tokens": count}}


def chat_events(body: dict[str, Any], count: int, *, usage: bool) -> Iterator[dict[str, Any]]:
    yield {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    for _ in range(count):
        yield {"choices": [{"index": 0, "delta": {"content": "ab"}}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    if usage:
        said = len(body["messages"][0]["content"])
        details = {"cached_tokens": 1}
        yield {
            "choices": [],
            "usage": {"prompt_tokens": said, "completion_tokens": count, "prompt_tokens_details": details},
        }


def native_events(body: dict[str, Any], count: int, *, usage: bool) -> Iterator[dict[str, Any]]:
    about = {"prompt_tokens": len(body.get("input_ids") or body["text"]), "cached_tokens": 2}
    for made in range(1, count + 1):
        yield {"text": " a" * made, "meta_info": {**about, "completion_tokens": made}}
    yield {"text": " a" * count, "meta_info": {**about, "completion_tokens": count}}  # the end, no new token


def whole(events: list[dict[str, Any]], *, native: bool, count: int, usage: bool) -> dict[str, Any]:
    if native:
        return events[-1]
    answer = {"choices": [{"index": 0, "text": " a" * count, "message": {"content": " a" * count}}]}
    return {**answer, **({"usage": events[-1]["usage"]} if usage else {})}


@contextmanager
def listening(server: FakeServer, uds: str | None = None) -> Iterator[FakeServer]:
    """On a free port or a Unix socket, in an event loop of its own."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        if uds is not None:
            await web.UnixSite(runner, uds).start()
            return 0
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        return port

    server.url = f"http://127.0.0.1:{loop.run_until_complete(start())}"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
