# SPDX-License-Identifier: Apache-2.0
"""The engines one after the other, each in a child process, case by case, under a limit of time.

A compile step inside a foreign library cannot be interrupted. So a case over its limit ends the child, and a
fresh one goes on with the next case.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from sgl_constrain.bench.cases import Case
from sgl_constrain.bench.measuring import Loaded, Measured, serve

_LOADING = 120.0  # seconds for an engine to read the vocabulary


@dataclass(slots=True)
class Run:
    """One engine's figures: `measured[i]` belongs to case i."""

    engine: str
    version: str
    loaded: Loaded
    measured: list[Measured] = field(default_factory=list)


def run(
    engine: str,
    version: str,
    vocabulary: str,
    cases: Sequence[Case],
    *,
    limit: float,
    time_of: str,
    say: Callable[[str], object],
) -> Run:
    """limit: seconds for the first mask of a case, and again for its texts. time_of: a name of
    `measuring.CLOCKS`. say: told of each case done.
    """
    child = _Child(engine, vocabulary, limit, time_of)
    try:
        result = Run(engine, version, child.start())
        for case in cases:
            found = child.measure(case)
            result.measured.append(found)
            say(f"{engine}: {case.kind} {case.name}: {found.outcome} {found.message.splitlines()[:1]}")
    finally:
        child.end()
    return result


class _Child:
    def __init__(self, engine: str, vocabulary: str, limit: float, time_of: str) -> None:
        self._arguments = (engine, vocabulary, limit, time_of)
        self._limit = limit
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None

    def start(self) -> Loaded:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, *self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        if not self._connection.poll(_LOADING):
            self.end()
            raise TimeoutError(f"{self._arguments[0]} did not load in {_LOADING:g} s")
        try:
            loaded: Loaded = self._connection.recv()
        except EOFError as error:
            self.end()
            raise RuntimeError(f"{self._arguments[0]} could not be loaded; see above") from error
        return loaded

    def measure(self, case: Case) -> Measured:
        if self._connection is None:
            self.start()
        connection = self._connection
        assert connection is not None
        try:
            connection.send(case)
            if not connection.poll(self._limit):
                return self._ended(Measured("slow", f"no first mask in {self._limit:g} s"))
            connection.recv()
            # A walk looks at the clock after each mask, so only a single endless one is cut short here.
            if not connection.poll(2 * self._limit + 30):
                return self._ended(Measured("slow", f"one mask takes more than {self._limit:g} s"))
            measured: Measured = connection.recv()
        except (EOFError, OSError):
            return self._ended(Measured("crashed", "the process ended"))
        return measured

    def _ended(self, measured: Measured) -> Measured:
        self.end()
        return measured

    def end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._connection = self._process = None
