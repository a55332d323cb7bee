# SPDX-License-Identifier: Apache-2.0
"""A recording says when each phase ended, and keeps the last steps; a report is a trace and a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from profiled import batch

from sgl_runtime.profile import spans as s
from sgl_runtime.profile.report import write_report
from sgl_runtime.profile.spans import Phase, Spans, phases
from sgl_runtime.profile.table import shapes, table


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The clock stands at the last entry."""
    now = [1_000_000]
    monkeypatch.setattr(s, "perf_counter_ns", lambda: now[-1])
    return now


def step(spans: Spans, clock: list[int], q_lens: list[int], **microseconds: int) -> None:
    """One step whose phases take that long."""
    spans.begin()
    for name, took in microseconds.items():
        clock.append(clock[-1] + 1000 * took)
        phase = Phase[name.upper()]
        if phase is Phase.LAUNCH:
            spans.launched(batch(q_lens))
        spans.lap(phase)
    spans.end()


def test_a_phase_lasts_from_the_end_of_the_one_before_it(clock: list[int]) -> None:
    spans = Spans()
    step(spans, clock, [1, 1], receive=3, plan=5, launch=20, wait=100, commit=7, send=2)
    clock.append(clock[-1] + 999_000)  # nothing to do
    step(spans, clock, [1, 1], receive=1, plan=4)
    times = phases(spans.steps()) // 1000
    assert times.tolist() == [[3, 5, 0, 0, 20, 100, 7, 0, 2], [1, 4, 0, 0, 0, 0, 0, 0, 0]]


def test_a_step_may_come_back_to_a_phase(clock: list[int]) -> None:
    spans = Spans()
    spans.lap(Phase.COPY)  # before the first step: of no step
    spans.begin()
    for phase, took in ((Phase.LAUNCH, 3), (Phase.WAIT, 10), (Phase.MASK, 2), (Phase.LAUNCH, 4)):
        clock.append(clock[-1] + took)
        spans.lap(phase)
    for _ in range(30):  # more than are told apart
        clock.append(clock[-1] + 1)
        spans.lap(Phase.SEND)
    spans.end()
    (step,) = spans.steps()
    assert [(Phase(phase).name, end - start) for phase, start, end in s.laps(step.tolist())][:4] == [
        ("LAUNCH", 3),
        ("WAIT", 10),
        ("MASK", 2),
        ("LAUNCH", 4),
    ]
    (times,) = phases(spans.steps())
    assert (times[Phase.LAUNCH], times[Phase.WAIT], times[Phase.COPY]) == (7, 10, 0)
    assert step[s.TOKENS :].tolist() == [0] * (s.WIDTH - s.TOKENS)


def test_the_step_under_way_is_not_told(clock: list[int]) -> None:
    spans = Spans()
    assert len(spans.steps()) == 0
    spans.begin()
    spans.lap(Phase.RECEIVE)
    assert len(spans.steps()) == 0


def test_the_ring_keeps_the_last_steps_in_order(clock: list[int]) -> None:
    spans = Spans(kept=4)
    for size in range(1, 11):
        step(spans, clock, [1] * size, plan=size, launch=1)
    assert spans.lost == 6
    kept = spans.steps()
    assert kept[:, s.ROWS].tolist() == [7, 8, 9, 10]
    spans.begin()
    assert spans.steps()[:, s.ROWS].tolist() == [8, 9, 10], "the one under way has taken a place"
    assert (np.diff(kept[:, s.START]) > 0).all()


def test_the_device_is_told_of_later_and_never_of_a_step_that_is_gone(clock: list[int]) -> None:
    spans = Spans(kept=2)
    spans.device(-1, 5, 5)  # launched before the first step that was recorded
    step(spans, clock, [1], plan=1, launch=1)
    spans.device(0, 77, 8)
    assert spans.steps()[0, [s.DEVICE_START, s.DEVICE_TIME]].tolist() == [77, 8]
    step(spans, clock, [1], plan=1, launch=1)
    step(spans, clock, [1], plan=1, launch=1)
    spans.device(0, 99, 9)  # its place belongs to step 2 now
    assert spans.steps()[:, s.DEVICE_START].tolist() == [0, 0]


def test_steps_are_grouped_by_kind_and_size(clock: list[int]) -> None:
    spans = Spans()
    step(spans, clock, [1] * 9, plan=10, launch=10)
    step(spans, clock, [1] * 16, plan=30, launch=10)
    step(spans, clock, [5, 1, 1], plan=1, launch=1)
    step(spans, clock, [5, 8], plan=1, launch=1)
    step(spans, clock, [], plan=1)  # computed nothing
    found = shapes(spans.steps())
    assert [(g.kind, g.requests, g.tokens, g.steps) for g in found] == [
        ("decode", (9, 16), 12.5, 2),
        ("mixed", (3, 3), 7.0, 1),
        ("prefill", (2, 2), 13.0, 1),
    ]
    assert found[0].phases["plan"] == (20.0, 29.8) and found[0].whole[0] == 30.0
    assert found[0].device is None and "commit" not in found[0].phases
    text = table(found, lost=3)
    assert "9-16" in text and "20 / 30" in text and "3 steps" in text


def test_a_report_is_a_trace_and_a_table(clock: list[int], tmp_path: Path) -> None:
    spans = Spans()
    step(spans, clock, [4, 4], receive=1, plan=5, launch=50, wait=10, commit=2, send=1)
    step(spans, clock, [1, 1], receive=1, plan=5, launch=50, wait=10, commit=2, send=1)
    spans.device(0, int(spans.steps()[0, s.START]) + 6000, 40_000)
    trace, text = write_report(tmp_path / "new" / "folder", "replica0", spans)
    assert trace.with_name(trace.name.replace(".trace.json", ".txt")).read_text() == text
    events = json.loads(trace.read_text())["traceEvents"]
    complete = [event for event in events if event["ph"] == "X"]
    assert all(event["ts"] >= 0 and event["dur"] >= 0 for event in complete)
    names = [event["name"] for event in complete if event["tid"] == 1]
    assert names[:2] == ["prefill 2 (8 tokens)", "receive"] and "decode 2" in names
    device = [event for event in complete if event["tid"] == 2]
    assert [(event["name"], event["ts"], event["dur"]) for event in device] == [
        ("prefill 2 (8 tokens)", 6.0, 40.0)
    ]
    whole = next(event for event in complete if event["name"] == "decode 2")
    inside = [e for e in complete if e["tid"] == 1 and e is not whole and e["ts"] >= whole["ts"]]
    assert sum(event["dur"] for event in inside) == pytest.approx(whole["dur"])
    assert {event["tid"] for event in events if event["name"] == "thread_name"} == {1, 2}


def test_a_recording_of_nothing_is_told_too(tmp_path: Path) -> None:
    trace, text = write_report(tmp_path, "replica0", Spans())
    assert "no step" in text and "traceEvents" in json.loads(trace.read_text())


def test_recordings_of_one_second_do_not_overwrite_each_other(tmp_path: Path) -> None:
    traces = {write_report(tmp_path, "replica0", Spans())[0] for _ in range(3)}
    assert len(traces) == 3
    assert {trace.with_name(trace.name.replace(".trace.json", ".txt")) for trace in traces} | traces == set(
        tmp_path.iterdir()
    )
