# SPDX-License-Identifier: Apache-2.0
"""What a streamed token costs: `uv run --with fastapi --with uvicorn python …/bench/streams.py`.

The api process as it is, and in turns with it, where they are installed, FastAPI on uvicorn writing the same
JSON for every token. Both are fed by an engine that computes nothing: over the channel of a replica it sends
one token of every stream per step, at a fixed rate. Reported of the process that answers (with --http-workers
of all of them together): CPU time per token and per event, memory, and how long after its step a token is
read by the client, which shares the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec

from sgl_runtime import log
from sgl_runtime.channel import AsyncPull, Pull, Push
from sgl_runtime.config import ServeConfig
from sgl_runtime.launch import resolve
from sgl_runtime.messages import (
    Capacity,
    Delta,
    FromReplica,
    Generate,
    Load,
    Open,
    Ready,
    Sampling,
    Step,
    StoppedByLength,
    ToReplica,
    encode,
)
from sgl_runtime.process import Child, ChildPipe, Program, stop
from sgl_runtime.replica.outboxes import Outboxes

TOKEN = 96  # "p" of the demonstration model's vocabulary: one character
TEXT = re.compile(rb'"text":"(p*)"')
BODY = {"prompt": [1], "stream": True, "temperature": 0}


class Run(NamedTuple):
    """One round against one server."""

    cpu: float  # s
    tokens: int
    events: int
    mib: float
    latencies: list[float]  # s, of some of the tokens


def replica(
    pipe: ChildPipe, *, inbox: str, outboxes: list[str], streams: int, rate: float, times: Path
) -> None:
    """The engine: when `streams` requests are there, a token of each a step, `rate` tokens a second in all;
    then the times of the steps go to `times`."""
    pull: Pull[ToReplica] = Pull(inbox, ToReplica)
    pushes = [Push(outbox) for outbox in outboxes]
    push = pushes[0] if len(pushes) == 1 else Outboxes(pushes)
    pipe.ready(Ready(Capacity(slots=1 << 22, rows=streams, context_length=8192, vocab_size=49152)))
    while True:
        asked: list[Generate] = []
        while len(asked) < streams:
            pull.wait(3600)
            asked += [message for message in pull.drain() if isinstance(message, Generate)]
        count = asked[0].sampling.max_new_tokens
        sent: list[float] = []
        start = time.monotonic()
        for index in range(count):
            time.sleep(max(0.0, start + index * streams / rate - time.monotonic()))
            finish = StoppedByLength(count) if index == count - 1 else None
            deltas = [Delta(generate.rid, [TOKEN], finish) for generate in asked]
            sent.append(time.monotonic())
            push.send(Step(deltas, Load()))
        partial = times.with_suffix(".partial")
        partial.write_text(json.dumps(sent))
        partial.rename(times)


def peer(pipe: ChildPipe, *, inbox: str, replicas: list[str], listener: socket.socket) -> None:
    """FastAPI on uvicorn, as one would write it: a queue for each request, an event for each token."""
    uvicorn = importlib.import_module("uvicorn")  # not of this workspace
    fastapi = importlib.import_module("fastapi")
    responses = importlib.import_module("fastapi.responses")
    queues: dict[str, asyncio.Queue[Delta]] = {}
    push = Push(replicas[0])
    app = fastapi.FastAPI()

    @app.post("/v1/completions")
    async def completions(body: dict[str, Any]) -> Any:
        id = uuid4().hex
        queues[id] = asyncio.Queue()
        push.send(Generate(id, body["prompt"], Sampling(max_new_tokens=body["max_tokens"])))
        return responses.StreamingResponse(events(id), media_type="text/event-stream")

    async def events(id: str) -> AsyncIterator[bytes]:
        created = int(time.time())
        finish = None
        while finish is None:
            delta = await queues[id].get()
            finish = None if delta.finish is None else "length"
            choice = {"index": 0, "text": "p" * len(delta.tokens), "logprobs": None, "finish_reason": finish}
            chunk = {
                "id": id,
                "object": "text_completion",
                "created": created,
                "model": "m",
                "choices": [choice],
            }
            yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
        del queues[id]
        yield b"data: [DONE]\n\n"

    async def run() -> None:
        pull: AsyncPull[FromReplica] = AsyncPull(inbox, FromReplica)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", backlog=2048))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        pipe.ready(Ready())
        while not serving.done():
            match await pull.receive():
                case Step(deltas):
                    for delta in deltas:
                        queues[delta.rid].put_nowait(delta)

    asyncio.run(run())


class Reader(asyncio.Protocol):
    """One stream: when how many of its tokens had come."""

    def __init__(self, request: bytes) -> None:
        self.events = 0
        self.tokens = 0
        self.arrivals: list[tuple[float, int]] = []
        self.ended = asyncio.get_running_loop().create_future()
        self._request = request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        texts = TEXT.findall(data)  # an event is less than a segment, and is sent whole
        self.events += len(texts)
        self.tokens += sum(map(len, texts))
        self.arrivals.append((time.monotonic(), self.tokens))
        if b"[DONE]" in data:
            self._transport.close()
            self.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error or ConnectionError("the stream ended early"))


async def measure(port: int, pids: list[int], times: Path, streams: int, tokens: int) -> Run:
    body = msgspec.json.encode({**BODY, "max_tokens": tokens})
    kind = b"Host: localhost\r\nContent-Type: application/json\r\n"
    request = b"POST /v1/completions HTTP/1.1\r\n%sContent-Length: %d\r\n\r\n%s" % (kind, len(body), body)
    loop = asyncio.get_running_loop()
    times.unlink(missing_ok=True)
    before = sum(map(cpu_of, pids))
    readers = [
        (await loop.create_connection(lambda: Reader(request), "127.0.0.1", port))[1] for _ in range(streams)
    ]
    await asyncio.gather(*(reader.ended for reader in readers))
    cpu = sum(map(cpu_of, pids)) - before
    while not times.exists():
        await asyncio.sleep(0.01)
    sent = json.loads(times.read_text())
    latencies: list[float] = []
    for reader in readers[::8]:
        known = 0
        for at, count in reader.arrivals:
            latencies += [at - sent[index] for index in range(known, count)]
            known = count
    assert all(reader.tokens == tokens for reader in readers), "every token has come"
    events, mib = sum(reader.events for reader in readers), sum(map(peak_of, pids))
    return Run(cpu, streams * tokens, events, mib, latencies)


def cpu_of(pid: int) -> float:
    """Seconds of user and system time so far; the kernel counts in hundredths."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def peak_of(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def started(
    stack: ExitStack, folder: Path, args: argparse.Namespace, workers: int
) -> tuple[int, list[int], Path]:
    """A server with its engine: port, pids, and where the engine writes its times. `workers`: api processes;
    0: FastAPI.
    """
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=2048))
    folder.mkdir()
    times, inbox = folder / "times", f"ipc://{folder}/replica"
    outboxes = [f"ipc://{folder}/api{home}" for home in range(workers or 1)]
    family: list[Child] = []
    stack.callback(stop, family, seconds=2.0)
    scripted = {"inbox": inbox, "outboxes": outboxes, "streams": args.streams, "rate": args.rate}
    family.append(Child(Program("engine", "streams:replica", {**scripted, "times": times}, drains=False)))
    capacity = family[0].wait_ready(family).capacity
    assert capacity is not None, "the engine tells it"
    channels = {"replicas": [inbox], "listener": listener}
    if not workers:
        family.append(Child(Program("fastapi", "streams:peer", {**channels, "inbox": outboxes[0]})))
    config, model, path = resolve(ServeConfig(log_level="warning", http_workers=workers or 1))
    own = {"config": config, "model": model, "path": path, "launched_at": time.monotonic()}
    for home in range(workers):
        place = {"home": home, "inboxes": outboxes}
        program = Program(
            f"api{home}", "sgl_runtime.http.process:run", {**own, **channels, **place}, "warning"
        )
        family.append(Child(program))
        family[-1].send(encode(Open([capacity])))
    for child in family[1:]:
        child.wait_ready(family)
    pids = [child.pid for child in family[1:] if child.pid is not None]
    return listener.getsockname()[1], pids, times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--rate", type=float, default=20_000.0, help="tokens a second of all streams")
    parser.add_argument("--tokens", type=int, default=120, help="of a stream")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--http-workers", type=int, nargs="+", default=[1], help="api processes, in turns")
    args = parser.parse_args()
    log.configure("bench", "warning")
    kinds = {f"sgl x{workers}": workers for workers in args.http_workers}
    if importlib.util.find_spec("fastapi"):
        kinds["fastapi"] = 0
    runs: dict[str, list[Run]] = {kind: [] for kind in kinds}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        places = {
            kind: started(stack, folder / str(workers), args, workers) for kind, workers in kinds.items()
        }
        for _ in range(args.rounds):
            for kind, (port, pids, times) in places.items():
                runs[kind].append(asyncio.run(measure(port, pids, times, args.streams, args.tokens)))
    print("server     µs CPU/token  µs CPU/event  tokens/event  p50 ms  p99 ms  peak MiB")
    for kind, all_of in runs.items():
        cpu, tokens, events = (
            statistics.median(getattr(run, name) for run in all_of) for name in Run._fields[:3]
        )
        middle, last = (statistics.median(at(run, share) for run in all_of) for share in (0.5, 0.99))
        print(
            f"{kind:<10} {1e6 * cpu / tokens:12.1f} {1e6 * cpu / events:13.1f} {tokens / events:13.2f}"
            f" {1e3 * middle:7.1f} {1e3 * last:7.1f} {all_of[-1].mib:9.0f}"
        )


def at(run: Run, share: float) -> float:
    return sorted(run.latencies)[int(share * (len(run.latencies) - 1))]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
