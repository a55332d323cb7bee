# SPDX-License-Identifier: Apache-2.0
"""Times of the device lie on the host's clock: with events that are made up, and on a CUDA device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from profiled import batch

from sgl_runtime.messages import Batch, Masks, Result
from sgl_runtime.profile import spans as s
from sgl_runtime.profile.spans import Spans
from sgl_runtime.replica import device_clock
from sgl_runtime.replica.device_clock import DeviceClock


class MadeUp:
    """An event that happens at the next of `times`, in milliseconds of the device's clock."""

    times: list[float]
    streams: list[Any]

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = -1.0
        self.synchronized = False

    def record(self, stream: Any) -> None:
        self.at = self.times.pop(0)
        self.streams.append(stream)

    def synchronize(self) -> None:
        self.synchronized = True

    def elapsed_time(self, later: MadeUp) -> float:
        return later.at - self.at


class Pass:
    def __init__(self, runner: FakeRunner) -> None:
        self._runner = runner

    def result(self) -> Result:
        self._runner.read += 1
        return Result(s.np.empty(0, s.np.int32))


class FakeRunner:
    stream: Any = "its own"
    read = 0

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> Pass:
        masks()
        return Pass(self)


def test_passes_lie_after_the_moment_at_which_the_clocks_were_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    MadeUp.times, MadeUp.streams = [100.0, 101.0, 104.0, 104.5, 110.0], []
    monkeypatch.setattr(torch.cuda, "Event", MadeUp)
    monkeypatch.setattr(device_clock, "perf_counter_ns", lambda: 7_000_000_000)
    spans, runner, asked = Spans(), FakeRunner(), []
    clock = DeviceClock(runner, spans)
    spans.begin()
    first = clock.forward(batch([3]), lambda: asked.append(1))
    spans.end()
    spans.begin()
    second = clock.forward(batch([1]), lambda: asked.append(2))
    assert runner.read == 0, "launching waits for nothing"
    first.result()
    second.result()
    spans.end()
    told = spans.steps()[:, [s.DEVICE_START, s.DEVICE_TIME]] - [7_000_000_000, 0]
    assert told.tolist() == [[1_000_000, 3_000_000], [4_500_000, 5_500_000]]
    assert asked == [1, 2] and runner.read == 2 and set(MadeUp.streams) == {"its own"}


@pytest.mark.gpu
def test_a_pass_on_a_device_is_timed() -> None:
    class Multiplies:
        stream = torch.cuda.Stream()

        def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> Pass:
            with torch.cuda.stream(self.stream):
                x = torch.randn(4096, 4096, device="cuda")
                for _ in range(20):
                    x = x @ x / 64
            return Pass(FakeRunner())

    spans = Spans()
    clock = DeviceClock(Multiplies(), spans)
    for _ in range(3):
        spans.begin()
        clock.forward(batch([1]), lambda: None).result()
        spans.end()
    steps = spans.steps()
    assert (steps[:, s.DEVICE_TIME] > 100_000).all(), "20 products take more than 0.1 ms"
    assert (s.np.diff(steps[:, s.DEVICE_START]) >= steps[:-1, s.DEVICE_TIME]).all(), "one after another"
    assert (steps[:, s.DEVICE_START] > steps[:, s.START]).all()
