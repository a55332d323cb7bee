# SPDX-License-Identifier: Apache-2.0
"""Batches without content, and a leader over a fake runner."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import Batch, Capacity, Masks, Message, Result, SamplingArrays, ToReplica
from sgl_runtime.profile.spans import OFF, Laps, Phase
from sgl_runtime.replica.leader import Leader
from sgl_runtime.scheduler.scheduler import Scheduler


def batch(q_lens: Sequence[int]) -> Batch:
    """Of these lengths; the rest is of no matter."""
    none, lens = np.empty(0, np.int32), np.array(q_lens, np.int32)
    floats, longs = np.empty(0, np.float32), np.empty(0, np.int64)
    total = np.zeros(int(lens.sum()), np.int32)
    sampling = SamplingArrays(floats, floats, none, floats, floats, floats, floats, longs, none)
    return Batch(np.arange(len(lens), dtype=np.int32), lens, lens, total, total, (), none, sampling)


class _Done:
    failed: tuple[int, ...] = ()

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def result(self) -> Result:
        return Result(np.full(self._tokens, 5, np.int32))


class FakeRunner:
    """Samples token 5, always."""

    def __init__(self) -> None:
        self._laps: Laps = OFF

    def record(self, laps: Laps) -> None:
        self._laps = laps

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> _Done:
        self._laps.lap(Phase.COPY)
        masks()
        return _Done(len(batch.sampled))


class Wire:
    """An inbox that is filled by hand, and an outbox that can be read."""

    def __init__(self) -> None:
        self.arrived: list[ToReplica] = []
        self.sent: list[Message] = []

    def drain(self) -> Sequence[ToReplica]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def wait(self, seconds: float) -> bool:
        return bool(self.arrived)

    def send(self, message: Message) -> None:
        self.sent.append(message)


def leader(wire: Wire, *, overlap: bool = False) -> Leader:
    capacity = Capacity(slots=4096, rows=16, context_length=512, vocab_size=100)
    scheduler = Scheduler(capacity, RadixCache())
    return Leader(scheduler, FakeRunner(), wire, wire, replica=3, followers=None, overlap=overlap)
