# SPDX-License-Identifier: Apache-2.0
"""A server on loopback with the runtime's HTTP API, and a backend that a test holds up and releases."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import settings

from sgl_lang import Backend, ChatTemplate, Completion, Prompt, SamplingParams
from sgl_lang.chat import TEMPLATES

settings.register_profile("sgl", deadline=None)  # how busy the machine is decides nothing
settings.load_profile("sgl")


class FakeRuntime(ThreadingHTTPServer):
    """Answers each /generate with what `answer(body)` returns: the growing texts, or an error.

    An int among the texts closes the connection there: 0 cleanly, 1 in the middle of a chunk. Tokens are the
    bytes of a text, and all equally likely.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.answer: Callable[[dict[str, Any]], list[Any]] = lambda body: [" fine", " fine, thanks"]
        self.model_info: dict[str, Any] = {"model_path": "SmolLM2-135M-Instruct", "is_generation": True}
        self.bodies: list[dict[str, Any]] = []
        self.connections = 0
        self.gone = threading.Event()  # a client left in the middle of an answer
        self.aborted: dict[str, threading.Event] = {}

    def aborting(self, rid: str) -> threading.Event:
        return self.aborted.setdefault(rid, threading.Event())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeRuntime

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def do_GET(self) -> None:
        known = {
            "/get_model_info": self.server.model_info,
            "/get_server_args": {"tp_size": 2},
            "/flush_cache": {},
        }
        self._json(
            200 if self.path in known else 404, known.get(self.path, {"error": {"message": "no such page"}})
        )

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/abort_request":
            self.server.aborting(body["rid"]).set()
            return self._json(200, {})
        if self.path == "/tokenize":
            return self._json(200, {"tokens": [list(text.encode()) for text in body["prompt"]]})
        self.server.bodies.append(body)
        if "input_ids" in body:
            return self._json(
                200, [self._scores(ids, body["logprob_start_len"]) for ids in body["input_ids"]]
            )
        texts = self.server.answer(body)
        if isinstance(texts[0], dict):
            return self._json(400, texts[0])
        if not body["stream"]:
            return self._json(200, {"text": texts[-1], "meta_info": {"id": body["rid"], "prompt_tokens": 3}})
        return self._events(texts)

    def _scores(self, ids: list[int], start: int) -> dict[str, Any]:
        entries = [[-1.0 if start else None, token, None] for token in ids[start:]]
        return {"text": "", "meta_info": {"prompt_tokens": len(ids), "input_token_logprobs": entries}}

    def _events(self, texts: list[Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for text in texts:
                if isinstance(text, int):
                    self.wfile.write(b"40\r\ndata: " if text else b"0\r\n\r\n")
                    self.close_connection = True
                    return
                self._chunk(
                    text if isinstance(text, dict) else {"text": text, "meta_info": {"finish_reason": None}}
                )
            self._chunk("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            self.server.gone.set()
            self.close_connection = True

    def _chunk(self, event: Any) -> None:
        data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
        piece = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def _json(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def runtime() -> Iterator[FakeRuntime]:
    server = FakeRuntime()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Held(Backend):
    """A backend that says one word of "one two three" per permit, and waits for permits in between."""

    def __init__(self) -> None:
        self.permits = threading.Semaphore(0)
        self.started = threading.Event()
        self.aborts: list[str] = []
        self.on_start: Callable[[], None] = lambda: None

    @property
    def chat_template(self) -> ChatTemplate:
        return TEMPLATES["chatml"]

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        return list(self.stream(prompt, params))[-1]

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        self.started.set()
        self.on_start()
        for text in ("one", "one two", "one two three"):
            assert self.permits.acquire(timeout=10), "the test never let the backend go on"
            if self.aborts:
                raise RuntimeError("aborted")
            yield Completion(text, {"words": len(text.split())})

    def abort(self, rid: str) -> None:
        self.aborts.append(rid)
        self.permits.release(3)


@pytest.fixture
def held() -> Iterator[Held]:
    backend = Held()
    yield backend
    backend.permits.release(100)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever a test does, the threads of its programs end."""
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("sgl "):
            thread.join(timeout=5)
            assert not thread.is_alive(), f"{thread.name} outlives its program"
