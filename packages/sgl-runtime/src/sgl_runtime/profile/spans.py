# SPDX-License-Identifier: Apache-2.0
"""`Spans`: when each phase of a step ended, what the step computed, and when the device did.

A ring of fixed size, filled with the clock's nanoseconds and nothing else, so that what is measured is not
changed by the measuring: a phase costs one reading of the clock and one store. `OFF` takes its place while
nobody asks. What the numbers mean together is told by `trace` and `table`.
"""

from __future__ import annotations

from array import array
from enum import IntEnum
from time import perf_counter_ns
from typing import Final, Protocol

import numpy as np

from sgl_runtime.messages import I64, Batch


class Phase(IntEnum):
    """The parts of a step. It need not have all of them, and comes back to some: a step with constrained
    rows waits for the one before it between its model and its sampler."""

    RECEIVE = 0  # network in: messages read, requests added to the line
    PLAN = 1  # the scheduler describes the pass
    FANOUT = 2  # network: the plan goes to the other ranks
    COPY = 3  # the plan becomes tensors on the device, and plans of attention
    LAUNCH = 4  # the kernels of model and sampler are queued; on a CPU, computed
    WAIT = 5  # until the device has the tokens; with nothing to compute, until a grammar is compiled
    COMMIT = 6  # the scheduler takes the tokens: stops, cache, memory
    MASK = 7  # what grammars allow
    SEND = 8  # network out: the tokens go to the api process


_LAPS: Final = 14  # of a step; more are not told apart from the last
_PHASE_BITS: Final = 4

START: Final = 0  # columns of a step: when it began, the ends of its laps (0: no more), what it did
LAPS: Final = 1
TOKENS: Final = LAPS + _LAPS  # computed in the pass that this step launched; 0: it launched none
ROWS: Final = TOKENS + 1  # requests in it
PROMPTS: Final = TOKENS + 2  # of which these compute more than one token
DEVICE_START: Final = TOKENS + 3  # when the device began that pass, on the host's clock; 0: not known
DEVICE_TIME: Final = TOKENS + 4
WIDTH: Final = TOKENS + 5

KEPT: Final = 1 << 14  # steps, 2.6 MiB: a minute or more of a busy GPU
_EMPTY: Final = array("q", bytes(8 * WIDTH))


class Laps(Protocol):
    """What takes part in a step knows of the recording: it says when its phase has ended."""

    def lap(self, phase: Phase) -> None: ...


class Recording(Laps, Protocol):
    """What the loop knows: `Spans`, or `OFF`."""

    def begin(self) -> None: ...

    def launched(self, batch: Batch) -> None: ...

    def end(self) -> None: ...


class _Off:
    """Records nothing."""

    def begin(self) -> None:
        pass

    def launched(self, batch: Batch) -> None:
        pass

    def lap(self, phase: Phase) -> None:
        pass

    def end(self) -> None:
        pass


OFF: Final = _Off()


class Spans:
    """The last `kept` steps. Not thread-safe: one loop writes it."""

    def __init__(self, kept: int = KEPT) -> None:
        self._ring = array("q", bytes(8 * WIDTH * kept))
        self._kept = kept
        self._step = -1
        self._at = self._next = self._last = 0  # places of this step, of its next lap, and of its last
        self._ended = 0  # steps, lost ones included

    def begin(self) -> None:
        """A step begins; in the place of the oldest one when the ring is full."""
        self._step += 1
        at = self._at = self._step % self._kept * WIDTH
        self._ring[at : at + WIDTH] = _EMPTY
        self._next, self._last = at + LAPS, at + TOKENS - 1
        self._ring[at] = perf_counter_ns()

    def lap(self, phase: Phase) -> None:
        """The phase ends now; it began where the lap before it ended. Before the first step: nothing."""
        place = self._next
        if place <= self._last and self._last:
            self._ring[place] = perf_counter_ns() << _PHASE_BITS | phase
            self._next = place + 1

    def launched(self, batch: Batch) -> None:
        """This step's pass is `batch`."""
        at = self._at
        self._ring[at + TOKENS] = len(batch.tokens)
        self._ring[at + ROWS] = len(batch.rows)
        self._ring[at + PROMPTS] = int(np.count_nonzero(batch.q_lens > 1))

    def end(self) -> None:
        """The step is over."""
        self._ended = self._step + 1

    @property
    def step(self) -> int:
        """The number of the step under way; -1 before the first."""
        return self._step

    def device(self, step: int, start: int, time: int) -> None:
        """When the device computed the pass that `step` launched: nanoseconds, of the host's clock."""
        if max(0, self._step - self._kept + 1) <= step:
            at = step % self._kept * WIDTH
            self._ring[at + DEVICE_START] = start
            self._ring[at + DEVICE_TIME] = time

    @property
    def lost(self) -> int:
        """Steps that the ring no longer has."""
        return max(0, self._step + 1 - self._kept)

    def steps(self) -> I64:
        """A copy of what was recorded, [steps, WIDTH], oldest first; a step under way is not in it."""
        ring: I64 = np.frombuffer(self._ring, np.int64).reshape(self._kept, WIDTH)
        return ring.take(np.arange(self.lost, self._ended) % self._kept, axis=0)


def laps(step: list[int]) -> list[tuple[int, int, int]]:
    """(phase, start, end) of every lap of a row of `Spans.steps`, in order."""
    found, last = [], step[START]
    for entry in step[LAPS:TOKENS]:
        if not entry:
            break
        end = entry >> _PHASE_BITS
        found.append((entry & (1 << _PHASE_BITS) - 1, last, end))
        last = end
    return found


def phases(steps: I64) -> I64:
    """[steps, len(Phase)] nanoseconds of each phase, all its laps together; 0 where a step had none."""
    times = np.zeros((len(steps), len(Phase)), np.int64)
    last = steps[:, START].copy()
    for entries in steps[:, LAPS:TOKENS].T:
        had = np.flatnonzero(entries)
        ends = entries[had] >> _PHASE_BITS
        times[had, entries[had] & (1 << _PHASE_BITS) - 1] += ends - last[had]
        last[had] = ends
    return times
