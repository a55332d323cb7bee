# SPDX-License-Identifier: Apache-2.0
"""`Wire`: a server on loopback that speaks a vendor's HTTP API strictly, and fails when it is told to.

The vendors' own clients talk to it. A subclass knows one vendor's formats: it checks a request as the vendor
would, refuses what the vendor refuses, and renders an answer or an error as the vendor does.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar


class Refused(Exception):
    """The vendor answers with this status and message."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})


@dataclass
class Fault:
    """What happens to one request instead of an answer.

    Attributes:
        status, message, headers: the error that is answered; status 0: the connection is dropped at once.
        after: with a stream, so many pieces of text come first; then an error event, with status 0 nothing.
        raw: the body as it stands, in place of the vendor's error.
        wait: no answer before the server's `released` is set.
    """

    status: int = 0
    message: str = "at fault"
    headers: Mapping[str, str] = field(default_factory=dict)
    after: int | None = None
    raw: bytes | None = None
    wait: bool = False


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: Any


@dataclass
class Answer:
    """What the model says, in the pieces in which it streams, and why it stopped."""

    pieces: list[str]
    reason: str  # "stop", "length", or a vendor's own
    stop: str | None = None  # the stop string that ended it
    prompt_tokens: int = 7

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Wire(ThreadingHTTPServer):
    """Answers with `says`, cut at the stop strings and after `max_tokens` words that the request holds.

    Attributes:
        says: the model's words, or a function from a request's body to them.
        ends: the reason for an answer that neither a stop string nor the length ended.
        faults: what happens to the next requests, the first one first; None: nothing, it is answered.
        asked: the requests so far.
        left: set when a client has closed its connection while it was being answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.says: str | Callable[[Any], str] = "Fine, thanks. And you?"
        self.ends = "stop"
        self.faults: deque[Fault | None] = deque()
        self.asked: list[Asked] = []
        self.released = threading.Event()
        self.waiting = threading.Event()
        self.left = threading.Event()

    # -- what a subclass knows

    def reply(self, asked: Asked) -> tuple[bool, Any]:
        """Whether the answer streams, and the JSON of it, or an iterator over (event, data, is_text)."""
        raise NotImplementedError

    def error(self, status: int, message: str) -> Any:
        """The JSON of an error."""
        raise NotImplementedError

    def error_event(self, status: int, message: str) -> tuple[str | None, Any]:
        """An error in the middle of a stream: its event and data."""
        raise NotImplementedError

    # -- what all models do

    def answer(self, body: Any, *, stop: list[str], max_tokens: int | None) -> Answer:
        text = self.says if isinstance(self.says, str) else self.says(body)
        found = [(text.find(each), each) for each in stop if each in text]
        place, matched = min(found, default=(len(text), None))
        pieces = words(text[:place])
        if max_tokens is not None and len(pieces) > max_tokens:
            return Answer(pieces[:max_tokens], "length")
        return Answer(pieces, self.ends if matched is None else "stop", matched)


def words(text: str) -> list[str]:
    """`text` in pieces: every word with the space after it."""
    pieces = text.split(" ")
    return [piece + " " for piece in pieces[:-1]] + [piece for piece in pieces[-1:] if piece]


class _Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Wire

    def do_GET(self) -> None:
        self._serve("GET", None)

    def do_POST(self) -> None:
        self._serve("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _serve(self, method: str, body: Any) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(method, self.path, headers, body)
        self.server.asked.append(asked)
        fault = self.server.faults.popleft() if self.server.faults else None
        try:
            if fault is not None and fault.wait and fault.after is None:
                self._wait()
            if fault is not None and fault.after is None and not fault.wait:
                self._fail(fault)
                return
            streams, reply = self.server.reply(asked)
            if streams:
                self._stream(reply, fault)
            else:
                self._json(200, reply, {})
        except Refused as refused:
            self._json(refused.status, self.server.error(refused.status, refused.message), refused.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()
            self.close_connection = True

    def _wait(self) -> None:
        """Until the test lets go on, or the client is gone."""
        self.server.waiting.set()
        self.connection.settimeout(0.02)
        try:
            while not self.server.released.is_set():
                try:
                    if self.connection.recv(1) == b"":
                        raise ConnectionResetError
                except TimeoutError:
                    continue
        finally:
            self.connection.settimeout(None)

    def _fail(self, fault: Fault) -> None:
        if fault.status == 0:
            self.close_connection = True
        elif fault.raw is not None:
            self._bytes(fault.status, fault.raw, fault.headers)
        else:
            self._json(fault.status, self.server.error(fault.status, fault.message), fault.headers)

    def _stream(self, events: Iterator[tuple[str | None, Any, bool]], fault: Fault | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        told = 0
        for event, data, is_text in events:
            if fault is not None and is_text and told == fault.after:
                if fault.status == 0 and not fault.wait:
                    self.close_connection = True  # in the middle of a chunked body
                    return
                if fault.wait:
                    self._wait()
                else:
                    self._event(*self.server.error_event(fault.status, fault.message))
                    break
            told += is_text
            self._event(event, data)
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, event: str | None, data: Any) -> None:
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        piece = (f"event: {event}\n" if event else "") + f"data: {text}\n\n"
        encoded = piece.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(encoded), encoded))
        self.wfile.flush()

    def _json(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        self._bytes(status, json.dumps(body, ensure_ascii=False).encode(), headers)

    def _bytes(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Silent."""


def known(body: Mapping[str, Any], *fields: str) -> None:
    """Refuses a body with other fields."""
    for name in body:
        if name not in fields:
            raise Refused(400, f"Unrecognized request argument supplied: {name}")


W = TypeVar("W", bound=Wire)


@contextmanager
def serving(server: W) -> Iterator[W]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
