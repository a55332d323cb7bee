# SPDX-License-Identifier: Apache-2.0
"""What tests that inject faults share: how a server shows that it is as before, and the table of what came
of it.

`pytest tests/test_faults.py tests/test_supervision.py --faults-full --faults-table docs/faults.md` writes it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from live import Server

REFERENCE: dict[str, Any] = {
    "text": "The reference",
    "sampling_params": {"temperature": 0, "max_new_tokens": 24, "ignore_eos": True},
}
_BACK_S = 120.0  # far beyond what it takes anywhere
_HEAD = """# What a server survives

Each row is a test that injects the fault into a running `sgl-runtime serve` (a random two-layer model on a
CPU) and then waits until the server is as it was: a greedy reference request is answered with the same
text, nothing runs or waits, and no slot of the KV pool is held. *Normal after* counts from the end of the
injection; for a fault that ends the server it is the time until no process of it is left, after which
whoever supervises it starts another. *Lost*: what was lost of other requests than the faulty one. Written,
on a machine of 2 cores that it shares with much other work, by

```bash
uv run pytest tests/test_faults.py tests/test_supervision.py --faults-full --faults-table docs/faults.md
```

Without `--faults-full` the large ones are smaller.

| fault | what its client saw | normal after, s | lost | test |
|---|---|---|---|---|
"""


class Row(NamedTuple):
    fault: str
    saw: str
    seconds: float
    lost: str
    test: str


class Faults:
    """The rows so far. `full`: the large faults in their full size."""

    def __init__(self, *, full: bool) -> None:
        self.full = full
        self._rows: list[Row] = []

    def tell(self, fault: str, *, saw: str, seconds: float, test: Callable[..., object], lost: str) -> None:
        self._rows.append(Row(fault, saw, seconds, lost, test.__name__))

    def write(self, path: Path) -> None:
        lines = (
            f"| {row.fault} | {row.saw} | {row.seconds:.1f} | {row.lost} | `{row.test}` |\n"
            for row in self._rows
        )
        path.write_text(_HEAD + "".join(lines))


def until_normal(server: Server, reference: str, *, since: float | None = None) -> float:
    """Seconds from `since` (time.monotonic; None: now) until the server answers and holds as before."""
    start = time.monotonic() if since is None else since
    deadline = time.monotonic() + _BACK_S
    while True:
        assert server.process.poll() is None, server.log
        answer = server.http.post("/generate", json=REFERENCE)
        if answer.status_code == 200 and answer.json()["text"] == reference and _nothing_held(server):
            took = time.monotonic() - start
            assert server.http.post("/flush_cache").status_code == 200
            assert (server.load()["slots_used"], server.load()["slots_cached"]) == (0, 0)
            return took
        assert time.monotonic() < deadline, f"not as before: {answer.text}, {server.load()}"
        time.sleep(0.02)


def _nothing_held(server: Server) -> bool:
    replica = server.http.get("/server_info").json()["replicas"][0]
    load = replica["load"]
    return not (replica["in_flight"] or load["running"] or load["waiting"] or load["slots_used"])


def memory_of(pid: int) -> int:
    """Bytes that a process has resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


async def open_request(
    port: int, path: str, body: bytes, *, headers: str = ""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A request as bytes on a socket of our own, so that we decide when it is read and when it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    return reader, writer


async def until(condition: Callable[[], Awaitable[object]], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)
