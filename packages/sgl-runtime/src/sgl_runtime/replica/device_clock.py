# SPDX-License-Identifier: Apache-2.0
"""`DeviceClock`: a runner whose passes on a CUDA device are timed by events of the stream.

It stands between the loop and the runner only while a profile is recorded. An event before a pass and one
after it cost the host some microseconds and the device nothing; no step waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Protocol

import torch

from sgl_runtime.messages import Batch, Masks, Result
from sgl_runtime.profile.spans import Spans


class _Pending(Protocol):
    @property
    def failed(self) -> Sequence[int]: ...

    def result(self) -> Result: ...


class _Runner(Protocol):
    @property
    def stream(self) -> torch.cuda.Stream | None: ...

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> _Pending: ...


class DeviceClock:
    """`forward` as the runner's, which tells `spans` when the device computed each pass, sampler included."""

    def __init__(self, runner: _Runner, spans: Spans) -> None:
        self._runner = runner
        self._spans = spans
        # Events know only differences. Each is told from the one before: a difference is a float32 of
        # milliseconds, and would be coarse over minutes.
        self._last = self._event()
        self._last.synchronize()
        self._last_ns = perf_counter_ns()

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> _Timed:
        begun = self._event()
        pending = self._runner.forward(batch, masks)
        return _Timed(self, pending, self._spans.step, begun, self._event())

    def ended(self, step: int, begun: torch.cuda.Event, ended: torch.cuda.Event) -> None:
        """The pass of `step` is over. Passes end in the order in which they were launched."""
        ended.synchronize()
        self._last_ns += round(self._last.elapsed_time(begun) * 1e6)
        self._last = begun
        self._spans.device(step, self._last_ns, round(begun.elapsed_time(ended) * 1e6))

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(self._runner.stream)
        return event


class _Timed:
    """A pending pass and its two events."""

    def __init__(
        self,
        clock: DeviceClock,
        pending: _Pending,
        step: int,
        begun: torch.cuda.Event,
        ended: torch.cuda.Event,
    ) -> None:
        self._clock = clock
        self._pending = pending
        self._step = step
        self._begun = begun
        self._ended = ended

    @property
    def failed(self) -> Sequence[int]:
        return self._pending.failed

    def result(self) -> Result:
        result = self._pending.result()
        self._clock.ended(self._step, self._begun, self._ended)
        return result
