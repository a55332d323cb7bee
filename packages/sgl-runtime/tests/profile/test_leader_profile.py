# SPDX-License-Identifier: Apache-2.0
"""The loop records while it is asked to, with and without overlap, and otherwise works as ever."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from profiled import Wire, leader

from sgl_runtime.messages import Generate, Profile, Profiled, Sampling, Step


def tokens(wire: Wire) -> dict[str, int]:
    counts: dict[str, int] = {}
    for message in wire.sent:
        for delta in message.deltas if isinstance(message, Step) else ():
            counts[delta.rid] = counts.get(delta.rid, 0) + len(delta.tokens)
    return counts


@pytest.mark.parametrize("overlap", [False, True])
def test_a_recording_between_two_messages(overlap: bool, tmp_path: Path) -> None:
    wire = Wire()
    lead = leader(wire, overlap=overlap)
    wire.arrived = [Generate(f"r{i}", [1] * 8, Sampling(max_new_tokens=20)) for i in range(4)]
    for _ in range(5):
        lead.step()
    wire.arrived = [Profile("start")]
    for _ in range(11):
        lead.step()
    wire.arrived = [Profile("stop", str(tmp_path))]
    while not lead.idle:
        lead.step()
    started, stopped = (message for message in wire.sent if isinstance(message, Profiled))
    assert started == Profiled("start")
    assert (stopped.rid, stopped.error) == ("stop", "") and Path(stopped.trace).parent == tmp_path
    assert Path(stopped.trace).name.startswith("replica3-")
    events = json.loads(Path(stopped.trace).read_text())["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    # Of the step that heard "start" nothing is recorded, of the one that heard "stop" nothing is told.
    assert sum(event["name"] == "decode 4" for event in spans) == 10
    for phase in ("receive", "plan", "copy", "launch", "wait", "commit", "send"):
        assert sum(event["name"] == phase for event in spans) == 10, phase
    assert tokens(wire) == {f"r{i}": 20 for i in range(4)}
    assert "decode" in stopped.table


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    wire = Wire()
    lead = leader(wire)
    wire.arrived = [Profile("a", str(tmp_path)), Profile("b"), Profile("c")]
    lead.step()
    (tmp_path / "file").write_text("")
    wire.arrived = [Profile("d", str(tmp_path / "file"))]
    lead.step()
    a, b, c, d = (message for message in wire.sent if isinstance(message, Profiled))
    assert a.conflict and "no profile" in a.error
    assert not b.error
    assert c.conflict and "already" in c.error
    assert not d.conflict and "could not be written" in d.error
