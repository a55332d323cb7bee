# SPDX-License-Identifier: Apache-2.0
"""What the interpreter costs per `gen`, beside the HTTP call itself.

    python packages/sgl-lang/bench/overhead.py [--gens 200] [--rounds 15]

A server on loopback, a process of its own, answers at once. A round makes the same requests twice: bare posts
of the very same bodies through the same client, and a program of as many `gen`, each read before the next.
The figure is the difference per gen between the fastest round of each, since other processes only add. The
difference in processor time is told too: it does not depend on what else the machine does. Beside it, without
any HTTP, what a `gen` costs on `Scripted`, and a whole program of one `gen`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

import sgl_lang as sgl

ANSWER = json.dumps(
    {
        "text": " fine",
        "meta_info": {"id": "x", "prompt_tokens": 3, "completion_tokens": 1, "finish_reason": None},
    }
).encode()


class _Instant(BaseHTTPRequestHandler):
    """Answers every request with the same words."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(ANSWER)}\r\n\r\n"
        self.wfile.write(head.encode() + ANSWER)

    def log_message(self, *args: Any) -> None:
        """Silent."""


class _Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


@sgl.function
def chain(s: Any, gens: int) -> None:
    """`gens` generations, each of which is read before the next one is asked for."""
    for _ in range(gens):
        s += "Go on:"
        s += sgl.gen("a", max_tokens=1)
        s["a"]


def _seconds(work: Any) -> tuple[float, float]:
    """Of the clock, and of this process on processors."""
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - cpu


def _bodies(gens: int) -> list[dict[str, Any]]:
    """What `chain` sends."""
    requests: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(json.loads(request.content))
        return httpx.Response(200, content=ANSWER)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    chain.run(gens, backend=sgl.RuntimeEndpoint("http://x", client=client))
    return requests


def _measure(url: str, gens: int, rounds: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Seconds (clock, processor) per request of the fastest round: of bare posts, and of gens."""
    bodies = _bodies(gens)
    with httpx.Client() as client:
        backend = sgl.RuntimeEndpoint(url, client=client)

        def bare() -> None:
            for body in bodies:
                json.loads(client.post(f"{url}/generate", json=body, headers={}).text)

        bare()
        posts, programs = [], []
        for _ in range(rounds):
            posts.append(_seconds(bare))
            programs.append(_seconds(lambda: chain.run(gens, backend=backend)))
    return _best(posts, gens), _best(programs, gens)


def _best(rounds: list[tuple[float, float]], gens: int) -> tuple[float, float]:
    return min(clock for clock, _ in rounds) / gens, min(cpu for _, cpu in rounds) / gens


@contextmanager
def instant_server() -> Iterator[str]:
    """The address of a server, in a process of its own, that answers at once."""
    child = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield f"http://127.0.0.1:{child.stdout.readline().strip()}"
    finally:
        child.terminate()
        child.wait()
        child.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        server = _Server(("127.0.0.1", 0), _Instant)
        print(server.server_address[1], flush=True)
        server.serve_forever()
        return
    with instant_server() as url:
        post, program = _measure(url, args.gens, args.rounds)
    instant = sgl.Scripted(lambda prompt, params: " fine")
    gen = _best(
        [_seconds(lambda: chain.run(args.gens, backend=instant)) for _ in range(args.rounds)], args.gens
    )
    one = _best([_seconds(lambda: chain.run(1, backend=instant)) for _ in range(50)], 1)
    print("                        clock  processor")
    for name, (clock, cpu) in (
        ("bare HTTP call", post),
        ("gen over HTTP", program),
        ("overhead per gen", (program[0] - post[0], program[1] - post[1])),
        ("gen on Scripted", gen),
        ("program of one gen", one),
    ):
        print(f"{name:20} {clock * 1e6:6.0f} us  {cpu * 1e6:6.0f} us")


if __name__ == "__main__":
    main()
