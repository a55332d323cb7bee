# SPDX-License-Identifier: Apache-2.0
"""`Intake`: how much of which prompts goes into the next batch.

First the requests that have a row and have not caught up, then newcomers down the line, as long as rows,
budgets and the forecast of memory allow. To prompts belong the outputs of retracted requests, which are
computed again like prompts.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from sgl_runtime.cache.prefix import Node
from sgl_runtime.messages import I32
from sgl_runtime.scheduler.admission import Admission, Sizes
from sgl_runtime.scheduler.batch import Chunk
from sgl_runtime.scheduler.forecast import Forecast
from sgl_runtime.scheduler.line import Line
from sgl_runtime.scheduler.memory import Memory
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.stats import Counters

# Tokens: with so many to compute in common, a newcomer waits until the other request has computed them.
_WORTH_A_STEP = 32


class Choice(NamedTuple):
    chunks: list[Chunk]  # their slots are taken, their requests are in rows
    complete: list[Request]  # out of the line: they sample nothing and the prefix cache has all of them


class Intake:
    def __init__(
        self,
        memory: Memory,
        line: Line,
        forecast: Forecast,
        counters: Counters,
        *,
        chunk: int | None,
        budget: int,
    ) -> None:
        """Tokens per batch: `chunk` of one request (None: prompts are not cut), `budget` of all together."""
        self._memory = memory
        self._line = line
        self._forecast = forecast
        self._counters = counters
        self._chunk = chunk
        self._budget = budget
        self._partial: list[Request] = []  # in rows and not caught up, in order of admission
        self._stalled = False  # the next in line did not fit, and nothing has changed since that could help

    def reconsider(self) -> None:
        """Memory was released, or the line has changed: somebody may fit who did not."""
        self._stalled = False

    def hold(self) -> None:
        """Memory was taken from running requests: admit nobody until something changes or nothing runs."""
        self._stalled = True

    def jumped(self, rows: I32) -> list[Chunk]:
        """What rows that have caught up and have jumped since compute of it in the next batch; slots are
        taken. Within the budget of prompts: those behind wait for the next one."""
        memory, left = self._memory, self._budget
        chunks: list[Chunk] = []
        for row, need in zip(rows.tolist(), memory.table.needs(rows).tolist(), strict=True):
            size = need if self._chunk is None else min(need, self._chunk, left)
            if size > left and chunks:
                break
            chunks.append(Chunk(memory.table.at(row), memory.take(size), entering=False))
            left -= size
            if left <= 0:
                break
        return chunks

    def choose(self, taken: int, spent: int = 0) -> Choice:
        """For the next batch, which has taken `taken` slots already, `spent` of them out of the budget."""
        memory, left = self._memory, self._budget - spent
        chunks: list[Chunk] = []
        for request in self._partial:
            size = self._size(memory.table.need(request.row), left, first=not chunks)
            if not size:
                return Choice(chunks, [])  # nobody overtakes what has begun
            chunks.append(Chunk(request, memory.take(size), entering=False))
            left -= size
        complete: list[Request] = []
        if len(self._line) and memory.rows.free and left > 0 and not (self._stalled and memory.rows.used):
            complete = self._admit(chunks, left, taken + self._budget - spent - left)
        return Choice(chunks, complete)

    def advance(self) -> None:
        """The batch has been built: some have caught up."""
        table = self._memory.table
        self._partial = [
            request
            for request in self._partial
            if not table.caught_up[request.row] and table.need(request.row) > 0
        ]

    def drop(self, request: Request) -> None:
        """A request is about to leave its row."""
        if request in self._partial:
            self._partial.remove(request)

    def _size(self, need: int, left: int, *, first: bool) -> int:
        """How many of `need` tokens to compute now, when `left` of the budget are; 0: none."""
        if self._chunk is not None:
            return min(need, self._chunk, left, self._memory.available)
        # What is not cut goes whole, and what is longer than the budget goes alone.
        return need if need <= self._memory.available and (need <= left or first) else 0

    def _admit(self, chunks: list[Chunk], left: int, taken: int) -> list[Request]:
        """Append the first chunks of newcomers; returns those that need none."""
        memory = self._memory
        line = self._line.ordered(self._counters.admitted)
        running, common = self._running(taken)
        admission = Admission(memory.total, self._forecast, running, line)
        computing = {_run(request.tokens(), request.shared, request.pin) for request in self._partial}
        complete: list[Request] = []
        for request in line:
            if not memory.rows.free or left <= 0:
                break
            tokens = request.tokens()[: request.matchable()]
            match = memory.cache.match(tokens)
            if match.length == request.known:
                self._leave_line(request, match.length)
                complete.append(request)
                continue
            run = _run(tokens, match.length, match.node)
            if run is not None and run in computing and memory.cache.remembers:
                continue
            evictable = memory.cache.evictable
            pin = memory.cache.pin(match)
            common += evictable - memory.cache.evictable
            need = request.known - match.length
            self._stalled = not admission.admit(request, need, common=common, force=not memory.rows.used)
            size = 0 if self._stalled else self._size(need, left, first=not chunks)
            if not size:
                memory.cache.unpin(pin)
                break
            self._leave_line(request, match.length)
            memory.enter(request, pin, match.length)
            self._partial.append(request)
            chunks.append(Chunk(request, memory.take(size), entering=True))
            computing.add(_run(tokens, match.length, pin))
            left -= size
        return complete

    def _running(self, taken: int) -> tuple[Sizes, int]:
        """The running requests, and how many slots in use none of them has brought: cached prefixes, pinned.

        `taken` slots are for tokens that `computed` does not count yet.
        """
        memory, table = self._memory, self._memory.table
        rows = np.flatnonzero(table.owner >= 0)
        brought = int((table.computed[rows] - table.borrowed[rows]).sum())
        sizes = Sizes(
            held=table.length[rows] - table.borrowed[rows],
            generated=table.length[rows] - table.prompt[rows],
            limit=table.limit[rows],
            certain=table.certain[rows],
        )
        return sizes, memory.used - taken - brought

    def _leave_line(self, request: Request, cached: int) -> None:
        self._line.leave(request)
        if request.cached is None:
            request.cached = cached
            self._counters.admitted += 1
            self._counters.prompt_tokens += len(request.prompt)
            self._counters.cached_tokens += cached
            self._counters.waits[request.rid] = time.monotonic() - request.came_at


def _run(tokens: I32, start: int, node: Node | None) -> tuple[int, int, bytes] | None:
    """Names the _WORTH_A_STEP tokens behind a cached prefix that ends with `node`; None if there are fewer.

    Two requests that name the same run would compute the same tokens side by side.
    """
    if node is None or start + _WORTH_A_STEP > len(tokens):
        return None
    return node.serial, start, tokens[start : start + _WORTH_A_STEP].tobytes()
