# SPDX-License-Identifier: Apache-2.0
"""Many states at once: time, threads and memory of big batches and of forks of forks, again and again.

    python packages/sgl-lang/bench/scale.py [--url http://127.0.0.1:30000] [--rounds 4]

Without --url the requests go to a server on loopback that answers at once. Memory is what the process holds
(Linux), after each round.
"""

from __future__ import annotations

import argparse
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from overhead import instant_server

import sgl_lang as sgl
from sgl_lang import gen

RULES = "These are the rules of a long game. " * 10


@sgl.function
def short(s: Any, i: int) -> None:
    """One of a thousand."""
    s += RULES + f"Move {i}:" + gen("move", max_tokens=1)


@sgl.function
def nested(s: Any, width: int) -> int:
    """`width` forks, each of which is forked `width` times."""
    s += RULES
    forks = s.fork(width)
    forks += lambda i: f"Branch {i}:" + gen("branch", max_tokens=1)
    leaves = [fork.fork(width) for fork in forks]
    for group in leaves:
        group += lambda i: f"Leaf {i}:" + gen("leaf", max_tokens=1)
        group.join()
    forks.join()
    return sum(map(len, s["leaf"]))


def _megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def _told(what: str) -> Iterator[list[str]]:
    words: list[str] = []
    start = time.perf_counter()
    yield words
    seconds = time.perf_counter() - start
    gc.collect()
    held = f"{threading.active_count()} threads  {_megabytes():6.1f} MiB"
    print(f"{what:24} {seconds:6.2f} s  {held}  {' '.join(words)}")


def _batch(backend: sgl.RuntimeEndpoint) -> str:
    states = short.run_batch([(i,) for i in range(1000)], backend=backend)
    return f"{sum(state.error() is None for state in states)} of {len(states)} without error"


def _forks(backend: sgl.RuntimeEndpoint) -> str:
    return f"{nested.run(100, backend=backend).ret_value} leaves"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url")
    parser.add_argument("--rounds", type=int, default=4)
    args = parser.parse_args()
    jobs: dict[str, Callable[[sgl.RuntimeEndpoint], str]] = {
        "1,000-way run_batch": _batch,
        "100 x 100 forks": _forks,
    }
    server = nullcontext(args.url) if args.url else instant_server()
    with server as url, sgl.RuntimeEndpoint(url) as backend:
        for _ in range(args.rounds):
            for what, job in jobs.items():
                with _told(what) as words:
                    words.append(job(backend))


if __name__ == "__main__":
    main()
