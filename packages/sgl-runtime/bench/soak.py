# SPDX-License-Identifier: Apache-2.0
"""Mixed traffic for a while, and what the server holds: `python packages/sgl-runtime/bench/soak.py`.

Completions, chats, texts held to a grammar, several samples of one prompt, streams, clients that leave or
abort, and requests that are refused, a constant number in flight; half of the grammars are met for the
first time, so that nothing stays small which is remembered by its text. Every interval the traffic ends and
the prefix cache is emptied; when the server has come to rest, what each process holds is read, and the free
slots.

A process is flat when the most that it held at rest in the last third of the run is no more than in the
middle third, but for 1% and 1 MiB: the first third is for caches to fill. If one is not, the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}, "b": {"enum": ["x"]}}, "required": ["a"]}'
)
GRAMMARS: tuple[dict[str, str], ...] = (
    {"regex": "[a-f]{4}(-[0-9]{2}){1,3}"},
    {"json_schema": SCHEMA},
    {"ebnf": 'root ::= ("yes" | "no") " " [a-z]+'},
)
REFUSED: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/generate", {"text": "x", "sampling_params": {"top_p": 7}}),
    ("/generate", {"text": "x", "sampling_params": {"regex": "a("}}),
    ("/generate", {"text": ""}),
    ("/v1/completions", {"prompt": "x", "model": "no such model"}),
    ("/v1/chat/completions", {"messages": []}),
    ("/no/such/route", {}),
)


REST_S = 4.0  # a replica gives free memory back when nothing was asked of it for two


class Held(NamedTuple):
    """What a process holds now, and the most memory it has held since the last time."""

    mib: float
    peak: float
    files: int
    threads: int


def held(pid: int) -> Held:
    status = Path(f"/proc/{pid}/status").read_text()
    kib, most, threads = (
        int(status.partition(f"{name}:")[2].split()[0]) for name in ("VmRSS", "VmHWM", "Threads")
    )
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak starts anew
    return Held(kib / 1024, most / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads)


def processes(launcher: int) -> dict[str, int]:
    """Name -> pid of the server's processes; those that compute have torch in their memory."""
    tasks = Path(f"/proc/{launcher}/task").iterdir()
    pids = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    named = {"launcher": launcher}
    for pid in pids:
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            torch = "libtorch" in Path(f"/proc/{pid}/maps").read_text()
            named[f"replica{sum(name != 'api' for name in named) - 1}" if torch else "api"] = pid
    return named


class Traffic:
    """One kind of request after another, drawn at random; `ends` counts how they ended."""

    def __init__(self, http: aiohttp.ClientSession, rng: random.Random) -> None:
        self.ends: Counter[str] = Counter()
        self._http = http
        self._rng = rng
        self._number = 0

    async def until(self, deadline: float) -> None:
        """One request after another until time.monotonic() is `deadline`."""
        kinds = (self.complete, self.chat, self.constrain, self.leave, self.abort, self.refuse)
        while time.monotonic() < deadline:
            kind = self._rng.choices(kinds, (4, 3, 2, 1, 1, 1))[0]
            self.ends[await kind()] += 1

    async def complete(self) -> str:
        rng = self._rng
        body = {
            "prompt": self._prompt(),
            "max_tokens": rng.choice((1, 8, 40)),
            "n": rng.choice((1, 1, 1, 3)),
            "temperature": rng.choice((0, 0.7)),
            "stream": rng.random() < 0.5,
            "logprobs": rng.choice((None, None, 2)),
            "stop": rng.choice((None, ["e", "é"])),
        }
        return await self._answered("/v1/completions", body, "completed")

    async def chat(self) -> str:
        messages = [{"role": "user", "content": self._prompt()}]
        body = {
            "messages": messages,
            "max_tokens": self._rng.choice((8, 30)),
            "stream": self._rng.random() < 0.5,
        }
        return await self._answered("/v1/chat/completions", body, "chatted")

    async def constrain(self) -> str:
        sampling = {"max_new_tokens": 40, **self._rng.choice((*GRAMMARS, *self._fresh()))}
        return await self._answered("/generate", {"text": "x", "sampling_params": sampling}, "constrained")

    async def leave(self) -> str:
        asking = asyncio.create_task(self._answered("/generate", self._long(), "too late to leave"))
        done, _ = await asyncio.wait((asking,), timeout=self._rng.random() * 0.3)
        if done:
            return asking.result()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        return "left"

    async def abort(self) -> str:
        self._number += 1
        name = f"soak-{self._number}"
        asking = asyncio.create_task(self._answered("/generate", self._long() | {"rid": name}, "aborted"))
        await asyncio.sleep(self._rng.random() * 0.3)
        await self._answered("/abort_request", {"rid": name}, "")
        return await asking

    async def refuse(self) -> str:
        path, body = self._rng.choice(REFUSED)
        async with self._http.post(path, json=body) as response:
            await response.read()
            assert response.status in (400, 404), response.status
        return "refused"

    async def _answered(self, path: str, body: dict[str, Any], end: str) -> str:
        async with self._http.post(path, json=body) as response:
            text = await response.text()
            assert response.status == 200, text
        return end

    def _fresh(self) -> tuple[dict[str, str], ...]:
        """Grammars that no request had before: new words, a new class of characters, a new schema."""
        name = f"{self._rng.getrandbits(60):x}"
        letters = "".join(self._rng.sample("abcdefghijklmnopqrstuvwxyz0123456789", 12))
        schema = {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]}
        return (
            {"regex": f"[a-z]{{1,9}}{name}"},
            {"regex": f"[{letters}]{{1,9}}"},
            {"json_schema": json.dumps(schema)},
        )

    def _prompt(self) -> str:
        shared = "a text that many prompts begin with " * self._rng.choice((0, 1, 3))
        return shared + "".join(self._rng.choices("abcdefgh ", k=self._rng.randrange(1, 60)))

    def _long(self) -> dict[str, Any]:
        sampling = {"max_new_tokens": 200, "ignore_eos": True}
        return {"text": self._prompt(), "sampling_params": sampling, "stream": self._rng.random() < 0.5}


async def soak(url: str, launcher: int, args: argparse.Namespace) -> list[dict[str, Held]]:
    """The rows, printed as they come. Raises AssertionError when a slot is held by nobody."""
    pids = processes(launcher)
    print(
        "      s  requests      free slots"
        + "".join(f"{name + ': MiB, peak, files, threads':>41}" for name in pids)
    )
    rows = []
    began = time.monotonic()
    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as http:
        traffic = Traffic(http, random.Random(args.seed))
        while (passed := time.monotonic() - began) < args.minutes * 60:
            deadline = time.monotonic() + args.interval
            await asyncio.gather(*(traffic.until(deadline) for _ in range(args.at_once)))
            slots, free = await _settled(http)
            assert free == slots, f"{slots - free} slots are held by nobody"
            await asyncio.sleep(REST_S)
            rows.append({name: held(pid) for name, pid in pids.items()})
            cells = (
                f"{row.mib:>21,.1f} {row.peak:>7,.1f} {row.files:5d} {row.threads:5d}"
                for row in rows[-1].values()
            )
            print(
                f"{passed:7.0f} {sum(traffic.ends.values()):9,d} {free:7,d}/{slots:,}" + "".join(cells),
                flush=True,
            )
        print(", ".join(f"{end}: {count:,}" for end, count in traffic.ends.most_common()))
    return rows


async def _settled(http: aiohttp.ClientSession) -> tuple[int, int]:
    """All slots, and those that are free when nothing is in flight and the prefix cache is empty."""
    async with asyncio.timeout(60):
        while True:
            async with http.post("/flush_cache") as response:
                flushed = response.status == 200
            async with http.get("/server_info") as response:
                replica = (await response.json())["replicas"][0]
            load = replica["load"]
            if flushed and not (replica["in_flight"] or load["running"] or load["waiting"]):
                return load["slots"], load["slots"] - load["slots_used"] - load["slots_cached"]
            await asyncio.sleep(0.05)


def grown(rows: list[dict[str, Held]]) -> dict[str, tuple[float, float]]:
    """Of each process the most MiB at rest in the middle and in the last third of the rows."""
    third = max(1, len(rows) // 3)
    parts = rows[-2 * third : -third] or rows[:1], rows[-third:]
    middle, last = ({name: max(row[name].mib for row in part) for name in rows[0]} for part in parts)
    return {name: (middle[name], last[name]) for name in middle}


def is_flat(middle: float, last: float) -> bool:
    return last <= middle * 1.01 + 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--interval", type=float, default=20.0, help="seconds of traffic between two rows")
    parser.add_argument("--at-once", type=int, default=24, help="requests in flight")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "flags", nargs="*", help="of `sgl-runtime serve`, after --; none: the demonstration model"
    )
    args = parser.parse_args()
    command = [
        sys.executable,
        "-m",
        "sgl_runtime",
        "serve",
        "--port",
        "0",
        "--log-level",
        "warning",
        *args.flags,
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None, "it is piped"
        try:
            found = None
            while found is None and (line := server.stdout.readline()):
                found = re.search(r"at (http://\S+),", line)
            if found is None:
                sys.exit("the server did not start")
            print(json.dumps(vars(args)))
            rows = asyncio.run(soak(found[1], server.pid, args))
        finally:
            server.terminate()
    verdicts = {name: is_flat(*most) for name, most in grown(rows).items()}
    for name, (middle, last) in grown(rows).items():
        verdict = "flat" if verdicts[name] else "NOT FLAT"
        print(f"{name}: at rest at most {middle:.1f} MiB, in the last third {last:.1f}: {verdict}")
    sys.exit(not all(verdicts.values()))


if __name__ == "__main__":
    main()
