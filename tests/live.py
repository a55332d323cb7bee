# SPDX-License-Identifier: Apache-2.0
"""A real `sgl-runtime serve` on loopback, as a value."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
START_S = 120  # far beyond the 15 s of a quiet machine: a test must not fail because others compute
SERVE = (sys.executable, "-m", "sgl_runtime", "serve")


def load_of(server_info: Any) -> dict[str, Any]:
    """The first replica's load in an answer of /server_info."""
    load: dict[str, Any] = server_info["replicas"][0]["load"]
    return load


class Server:
    """A running `sgl-runtime serve` on a port of its own. `errors`: a file for its standard error;
    `environment`: what it gets beside ours."""

    def __init__(self, *flags: str, errors: Path | None = None, **environment: str) -> None:
        with ExitStack() as stack:
            where = subprocess.PIPE if errors is None else stack.enter_context(errors.open("w"))
            self._start(flags, where, environment)

    def _start(self, flags: tuple[str, ...], errors: int | IO[str], environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [*SERVE, "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self.out: list[str] = []
        self.err: list[str] = []
        self._ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self.process.stdout, self.out), (self.process.stderr, self.err))
            if stream is not None
        ]
        for reader in self._readers:
            reader.start()
        if not self._ready.wait(START_S) or self.process.poll() is not None:
            self.process.kill()
            raise AssertionError(f"the server did not start:\n{self.log}")
        match = re.search(r" at (\S.*?), room", "".join(self.out))
        assert match is not None, self.log
        place = match[1]
        self.uds = place.removeprefix("unix:") if place.startswith("unix:") else None
        self.url = place if self.uds is None else "http://localhost"
        self.http = self.client()

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def client(self) -> httpx.Client:
        """Connections of its own."""
        transport = httpx.HTTPTransport(uds=self.uds, limits=httpx.Limits(max_connections=100))
        return httpx.Client(base_url=self.url, transport=transport, timeout=300)

    @property
    def log(self) -> str:
        return "".join(self.out) + "".join(self.err)

    def children(self) -> dict[str, int]:
        """Name -> pid of the server's processes, by what the kernel knows of the launcher's children."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        pids = [int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()]
        named = {}
        for pid in pids:
            command = Path(f"/proc/{pid}/cmdline").read_text()
            if "spawn_main" in command:
                named[pid] = Path(f"/proc/{pid}/maps").read_text()
        torch = [pid for pid, maps in named.items() if "libtorch" in maps]
        plain = [pid for pid, maps in named.items() if "libtorch" not in maps]
        names = ["api"] if len(plain) == 1 else [f"api{index}" for index in range(len(plain))]
        apis = dict(zip(names, sorted(plain), strict=True))
        return {**apis, **{f"rank{index}": pid for index, pid in enumerate(sorted(torch))}}

    def generate(self, **body: Any) -> Any:
        response = self.http.post("/generate", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    def load(self) -> dict[str, Any]:
        """What the first replica said of itself last."""
        return load_of(self.http.get("/server_info").json())

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End the server; its exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        for reader in self._readers:
            reader.join(10)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        return code

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line)
            if stream is self.process.stdout and "curl" in line:
                lines.append(stream.readline())  # the command's second line
                self._ready.set()
        self._ready.set()


@contextmanager
def running(*flags: str, **environment: str) -> Iterator[Server]:
    server = Server(*flags, **environment)
    try:
        yield server
    finally:
        server.stop()
