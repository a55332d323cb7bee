# SPDX-License-Identifier: Apache-2.0
"""Faults that a server survives: injected one after another into the same one, which is as before after each.

`test_supervision` has those that end a server. docs/faults.md is made of both.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from faults import REFERENCE, Faults, memory_of, open_request, until, until_normal
from live import Server

SLOTS = 1200
QUEUED = 200
# Every process of the server imports it: a wall clock that is wrong by what a file says.
CLOCK = """
import os, time
_right = time.time
def _wrong():
    try:
        with open({path!r}) as file:
            return _right() + float(file.read())
    except (OSError, ValueError):
        return _right()
time.time = _wrong
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seconds to add to the wall clock of `server`, as a file."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "sitecustomize.py").write_text(CLOCK.format(path=str(folder / "seconds")))
    return folder / "seconds"


@pytest.fixture(scope="module")
def server(tiny: Path, clock: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--dtype", "float32", "--max-total-tokens", str(SLOTS), "--max-queued-requests", str(QUEUED))
    limits = ("--send-timeout", "1", "--body-timeout", "60", "--keep-alive-timeout", "60")
    model = ("--model-path", str(tiny), "--log-level", "warning", "--schedule-conservativeness", "0.1")
    limits += ("--file-storage-path", str(tmp_path_factory.mktemp("files")))
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))  # as many files as it is started with
    try:
        server = Server(*model, *flags, *limits, PYTHONPATH=str(clock.parent))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def reference(server: Server) -> str:
    """What the server answers to the reference request."""
    text: str = server.generate(**REFERENCE)["text"]
    return text


def body_of(tokens: int, *, stream: bool = True, **more: Any) -> bytes:
    """A native request for so many tokens."""
    sampling = {"max_new_tokens": tokens, "ignore_eos": True, **more}
    return json.dumps({"text": "x", "sampling_params": sampling, "stream": stream}).encode()


async def in_flight(server: Server) -> int:
    info = await asyncio.to_thread(lambda: server.http.get("/server_info").json())
    count: int = info["replicas"][0]["in_flight"]
    return count


async def idle(server: Server) -> bool:
    return not await in_flight(server)


def test_clients_that_vanish_mid_stream(server: Server, reference: str, faults: Faults) -> None:
    async def vanish() -> None:
        opened = [await open_request(server.port, "/generate", body_of(400)) for _ in range(40)]
        for reader, writer in opened:
            await reader.readuntil(b"data: ")
            writer.transport.abort()  # a reset: no end of file comes before it

    before = server.load()["generated_tokens"]
    asyncio.run(vanish())
    took = until_normal(server, reference)
    assert server.load()["generated_tokens"] - before < 40 * 400 / 2
    faults.tell(
        "40 clients reset their connections mid-stream",
        saw="-",
        seconds=took,
        lost="nothing",
        test=test_clients_that_vanish_mid_stream,
    )


def test_a_reader_that_stops_reading(server: Server, reference: str, faults: Faults) -> None:
    """More than all buffers hold, and a client that takes none of it."""
    body = json.loads(body_of(400)) | {"return_logprob": True, "top_logprobs_num": 100}

    def stop_reading() -> int:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", server.port))
            data = json.dumps(body).encode()
            deaf.sendall(
                b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(data)
            )
            deaf.sendall(data)
            asyncio.run(until(lambda: in_flight(server), 5))
            asyncio.run(until(lambda: idle(server), 20))
            deaf.settimeout(5)
            got = 0
            try:
                while data := deaf.recv(1 << 16):
                    assert b"[DONE]" not in data
                    got += len(data)
            except ConnectionError:
                pass
            return got

    assert stop_reading() > 0
    faults.tell(
        "a reader takes nothing of its stream any more",
        saw="after `--send-timeout` its connection is reset",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_a_reader_that_stops_reading,
    )


GARBAGE = (
    b"",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # as TLS begins
    b"\x00" * 64,
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /gen",
    b"GET /generate HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    b"x" * 4096,
)


def test_garbage_connections(server: Server, reference: str, faults: Faults) -> None:
    """Held open together, while others are served; more than the files that the server is started with."""
    count = 10_000 if faults.full else 600

    async def garbage() -> float:
        slowest = 0.0
        async with asyncio.TaskGroup() as group:
            gate = asyncio.Semaphore(200)
            held: list[asyncio.StreamWriter] = []

            async def one(index: int) -> None:
                async with gate:
                    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
                    held.append(writer)
                    writer.write(GARBAGE[index % len(GARBAGE)])

            for index in range(count):
                group.create_task(one(index))
        for _ in range(3):
            start = time.monotonic()
            assert (await asyncio.to_thread(server.http.post, "/generate", json=REFERENCE)).status_code == 200
            slowest = max(slowest, time.monotonic() - start)
        for writer in held:
            writer.transport.abort()
        return slowest

    api = server.children()["api"]
    before = memory_of(api)
    slowest = asyncio.run(garbage())
    grown = memory_of(api) - before
    took = until_normal(server, reference)
    assert grown < 40_000 * count + (32 << 20)
    files = resource.prlimit(api, resource.RLIMIT_NOFILE)
    assert files[0] == min(files[1], 65_536), "the server raised what it was started with"
    faults.tell(
        f"{count:,} connections that send garbage or nothing, held open together",
        saw=f"400 or nothing; {grown / count / 1000:.0f} kB each; others are answered within {slowest:.1f} s",
        seconds=took,
        lost="nothing",
        test=test_garbage_connections,
    )


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_end(server: Server, reference: str, faults: Faults, chunked: bool) -> None:
    size = 1 << 30 if faults.full else 80 << 20
    piece = b"x" * (1 << 20)

    async def send() -> tuple[bytes, int]:
        most = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        writer.write(f"POST /generate HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        for _ in range(size // len(piece)):
            writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            most = max(most, memory_of(api))
        if chunked:
            writer.write(b"0\r\n\r\n")
        answer = await reader.readuntil(b"--max-body-size")
        writer.close()
        return answer, most

    api = server.children()["api"]
    before = memory_of(api)
    answer, most = asyncio.run(send())
    assert answer.startswith(b"HTTP/1.1 413")
    assert most - before < 128 << 20  # what is within --max-body-size is kept, and decoded nowhere
    faults.tell(
        f"a body of {size >> 20:,} MiB" + (" that does not say its length" if chunked else ""),
        saw=f"413; the api process grew by {max(0, most - before) >> 20} MiB meanwhile",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_a_body_without_end,
    )


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
def test_a_clock_that_jumps(server: Server, reference: str, faults: Faults, clock: Path, jump: float) -> None:
    """While a stream is under way, another request waits for its body, and a connection is kept."""

    async def jumped() -> bytes:
        kept = await open_request(server.port, "/tokenize", b'{"prompt": "x"}')
        reader, writer = await open_request(server.port, "/generate", body_of(300))
        began = await reader.readuntil(b"data: ")
        begun, slow = await asyncio.open_connection("127.0.0.1", server.port)
        slow.write(b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{")
        uptime = (await asyncio.to_thread(lambda: server.http.get("/server_info").json()))["uptime_seconds"]
        clock.write_text(str(jump))
        rest = await reader.readuntil(b"[DONE]")
        slow.write(b'"prompt": "x"}')
        assert (await begun.readline()).startswith(b"HTTP/1.1 200"), await begun.read(1000)
        info = await asyncio.to_thread(lambda: server.http.get("/server_info").json())
        assert 0 < info["uptime_seconds"] - uptime < 60
        assert (await kept[0].readline()).startswith(b"HTTP/1.1 200")
        for open_writer in (writer, slow, kept[1]):
            open_writer.close()
        return began + rest

    try:
        answer = asyncio.run(jumped())
        assert b'"completion_tokens":300' in answer
        created = server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).json()["created"]
        assert abs(created - time.time() - jump) < 60, "the injection works"
        took = until_normal(server, reference)
    finally:
        clock.unlink(missing_ok=True)
    until_normal(server, reference)
    faults.tell(
        f"the wall clock jumps a day {'ahead' if jump > 0 else 'back'}",
        saw="nothing but `created`",
        seconds=took,
        lost="nothing",
        test=test_a_clock_that_jumps,
    )


def test_far_more_demand_than_slots(server: Server, reference: str, faults: Faults) -> None:
    """What is retracted and computed again says what it would have said alone."""
    count = 40
    prompts = [f"{'shared ' * (n % 4)}{n}" for n in range(12)]

    async def storm() -> list[tuple[int, str]]:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:

            async def ask(number: int) -> tuple[int, str]:
                sampling = {"temperature": 0, "max_new_tokens": 150, "ignore_eos": True}
                body = {"text": prompts[number % len(prompts)], "sampling_params": sampling}
                async with http.post("/generate", json=body) as response:
                    assert response.status == 200, await response.text()
                    return number % len(prompts), (await response.json())["text"]

            alone = [await ask(number) for number in range(len(prompts))]
            os.kill(replica, signal.SIGSTOP)  # so that all are there when it begins
            try:
                asking = [asyncio.create_task(ask(number)) for number in range(count)]
                while await in_flight(server) < count:
                    await asyncio.sleep(0.01)
            finally:
                os.kill(replica, signal.SIGCONT)
            together = await asyncio.gather(*asking)
            assert set(together) == set(alone)
            return together

    replica = server.children()["rank0"]
    before = server.load()["retractions"]
    assert len(asyncio.run(storm())) == count
    retractions = server.load()["retractions"] - before
    assert retractions > 0
    faults.tell(
        f"{count * 160:,} tokens asked for at once of a pool of {SLOTS:,}: {retractions} retractions",
        saw="the answer it would have had alone, later",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_far_more_demand_than_slots,
    )


def test_a_full_queue(server: Server, reference: str, faults: Faults) -> None:
    """The crowd arrives while the replica does nothing, so that nobody's place depends on the moment."""
    more = 100
    rows = server.http.get("/server_info").json()["replicas"][0]["capacity"]["rows"]
    count = rows + QUEUED + more

    async def crowd() -> Counter[int]:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            refused = asyncio.Event()
            statuses: Counter[int] = Counter()

            async def ask() -> None:
                async with http.post("/generate", data=body_of(8, stream=False)) as response:
                    answer = await response.json()
                    statuses[response.status] += 1
                    if response.status == 503:
                        assert response.headers["retry-after"] == "1"
                        assert "--max-queued-requests" in answer["error"]["message"]
                        if statuses[503] == more:
                            refused.set()
                    else:
                        assert answer["meta_info"]["completion_tokens"] == 8

            async with asyncio.TaskGroup() as asked:
                for _ in range(count):
                    asked.create_task(ask())
                await refused.wait()
                os.kill(replica, signal.SIGCONT)
            return statuses

    replica = server.children()["rank0"]
    os.kill(replica, signal.SIGSTOP)
    try:
        statuses = asyncio.run(crowd())
    finally:
        os.kill(replica, signal.SIGCONT)
    assert statuses == {200: rows + QUEUED, 503: more}
    faults.tell(
        f"{count} requests at once where {rows} run and {QUEUED} may wait",
        saw=f"503 with `retry-after` at once ({more} of them)",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_a_full_queue,
    )


def nested(depth: int) -> dict[str, Any]:
    definitions = {
        f"d{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/d{n + 1}"}}} for n in range(depth)
    }
    return {"$defs": {**definitions, f"d{depth}": {"type": "null"}}, "$ref": "#/$defs/d0"}


POISON: dict[str, dict[str, Any]] = {
    "an exponential pattern": {"regex": "[ab]*a[ab]{60}c"},
    "a pattern of nested counts": {"regex": "(((a|b){1,999}c){1,999}d){1,999}e"},
    "a schema of 10 MB": {
        "json_schema": json.dumps(
            {"type": "object", "properties": {f"p{n}": {"enum": ["x" * 1000, n]} for n in range(10_000)}}
        )
    },
    "a chain of 5,000 $ref": {"json_schema": json.dumps(nested(5_000))},
    "a $ref to itself": {"json_schema": '{"$ref": "#"}'},
    "a value nested 100,000 deep": {"json_schema": '{"const":' + "[" * 100_000 + "]" * 100_000 + "}"},
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poisoned_grammar(server: Server, reference: str, faults: Faults, poison: str) -> None:
    """Refused by name, while another client is answered."""

    async def poisoned() -> tuple[int, str, float]:
        async with aiohttp.ClientSession(server.url) as http:

            async def ask() -> tuple[int, str]:
                body = {"text": "x", "sampling_params": {"max_new_tokens": 8, **POISON[poison]}}
                async with http.post("/generate", data=BytesIO(json.dumps(body).encode())) as response:
                    return response.status, await response.text()

            asking = asyncio.create_task(ask())
            slowest = 0.0
            while not asking.done():
                start = time.monotonic()
                async with http.post("/generate", json=REFERENCE) as response:
                    assert (await response.json())["text"] == reference
                slowest = max(slowest, time.monotonic() - start)
            return *asking.result(), slowest

    status, text, slowest = asyncio.run(poisoned())
    said = json.loads(text)
    if status == 200:
        saw = f"an answer (`{said['meta_info']['finish_reason']['type']}`)"
    else:
        assert status == 400 and said["error"]["message"]
        saw = "400, with the reason"
    faults.tell(
        f"{poison} as a constraint",
        saw=f"{saw}; other requests take up to {slowest:.1f} s meanwhile",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_a_poisoned_grammar,
    )


def test_a_replica_that_is_stopped_and_goes_on(server: Server, reference: str, faults: Faults) -> None:
    async def stopped() -> bytes:
        reader, writer = await open_request(server.port, "/generate", body_of(400))
        began = await reader.readuntil(b"data: ")
        os.kill(server.children()["rank0"], signal.SIGSTOP)
        assert (await asyncio.to_thread(server.http.get, "/health")).status_code == 200
        await asyncio.sleep(0.5)
        os.kill(server.children()["rank0"], signal.SIGCONT)
        rest = await reader.readuntil(b"[DONE]")
        writer.close()
        return began + rest

    assert b'"completion_tokens":400' in asyncio.run(stopped())
    faults.tell(
        "the replica is stopped and goes on later (SIGSTOP, SIGCONT)",
        saw="a pause",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_a_replica_that_is_stopped_and_goes_on,
    )


def test_a_disk_that_is_full(server: Server, reference: str, faults: Faults, tmp_path: Path) -> None:
    """No file of the replica may grow: the profile is not written, which its reader is told."""
    replica = server.children()["rank0"]
    limits = resource.prlimit(replica, resource.RLIMIT_FSIZE)
    assert server.http.post("/start_profile").status_code == 200
    server.generate(**REFERENCE)
    resource.prlimit(replica, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        answer = server.http.post("/stop_profile")
    finally:
        resource.prlimit(replica, resource.RLIMIT_FSIZE, limits)
    assert answer.status_code >= 400 and "File too large" in answer.json()["error"]["message"]
    faults.tell(
        "no room on the disk for a profile",
        saw=f"{answer.status_code} that says so",
        seconds=until_normal(server, reference),
        lost="the recording",
        test=test_a_disk_that_is_full,
    )


def test_a_disk_without_room_for_files(server: Server, reference: str, faults: Faults) -> None:
    """No file of the api process may grow: what is sent is not kept, which its sender is told."""

    def upload() -> Any:
        file = {"file": ("in.jsonl", b"x" * 100_000), "purpose": (None, "batch")}
        return server.http.post("/v1/files", files=file)

    assert upload().status_code == 200
    api = server.children()["api"]
    limits = resource.prlimit(api, resource.RLIMIT_FSIZE)
    resource.prlimit(api, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        answer = upload()
        assert server.generate(**REFERENCE)["text"] == reference
    finally:
        resource.prlimit(api, resource.RLIMIT_FSIZE, limits)
    assert answer.status_code == 507 and answer.json()["error"]["message"]
    seconds = until_normal(server, reference)
    assert len(server.http.get("/v1/files").json()["data"]) == 1
    assert upload().status_code == 200
    faults.tell(
        "no room on the disk for files of batches",
        saw="507 that says so; others are answered",
        seconds=seconds,
        lost="nothing: the files before are there",
        test=test_a_disk_without_room_for_files,
    )


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        ("a text that no tokenizer takes (half a surrogate pair)", b'{"text": "\\ud800"}'),
        ("token ids that the model has not", b'{"input_ids": [999999999]}'),
    ],
)
def test_what_cannot_be_tokens(
    server: Server, reference: str, faults: Faults, fault: str, body: bytes
) -> None:
    answer = server.http.post("/generate", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["message"]
    faults.tell(
        fault,
        saw="400 that says so",
        seconds=until_normal(server, reference),
        lost="nothing",
        test=test_what_cannot_be_tokens,
    )
