# SPDX-License-Identifier: Apache-2.0
"""Recorded steps as a trace in the Trace Event Format, which Perfetto and chrome://tracing open.

Two tracks: the loop, each step with its phases inside it, and the device with its passes. Two counters say
how many tokens and requests each pass had. Format: "Trace Event Format", Google, 2016, complete events ("X"),
counters ("C") and metadata ("M"); times are microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from sgl_runtime.messages import I64
from sgl_runtime.profile.spans import DEVICE_START, DEVICE_TIME, PROMPTS, ROWS, START, TOKENS, Phase, laps

_LOOP, _DEVICE = 1, 2  # thread ids: the tracks
_PHASES = tuple(phase.name.lower() for phase in Phase)


def write_trace(file: Path, steps: I64, *, process: str, device: str) -> None:
    """`steps` as `Spans.steps` gives them; `process` and `device` name the tracks. Overwrites `file`."""
    encode = msgspec.json.Encoder().encode
    with file.open("wb") as out:
        out.write(b'{"displayTimeUnit":"ms","traceEvents":[')
        separator = b"\n"
        for event in chain(_names(process, device), _events(steps)):
            out.write(separator + encode(event))
            separator = b",\n"
        out.write(b"\n]}\n")


def _names(process: str, device: str) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": 0, "tid": 0, "args": {"name": process}}
    for tid, name in ((_LOOP, "loop"), (_DEVICE, device)):
        yield {"ph": "M", "name": "thread_name", "pid": 0, "tid": tid, "args": {"name": name}}
        yield {"ph": "M", "name": "thread_sort_index", "pid": 0, "tid": tid, "args": {"sort_index": tid}}


def _events(steps: I64) -> Iterator[dict[str, Any]]:
    origin = int(steps[0, START]) if len(steps) else 0
    for number, step in enumerate(steps.tolist()):
        start, inside = step[START], laps(step)
        end = inside[-1][2] if inside else start
        does = {"step": number, "tokens": step[TOKENS], "requests": step[ROWS], "prompts": step[PROMPTS]}
        yield _span(_name(step), _LOOP, start - origin, end - start, does)
        for phase, begun, ended in inside:
            yield _span(_PHASES[phase], _LOOP, begun - origin, ended - begun, {})
        if step[TOKENS]:
            at = (start - origin) / 1e3
            counts = {"tokens": step[TOKENS]}, {"requests": step[ROWS]}
            for count in counts:
                yield {"ph": "C", "name": next(iter(count)), "pid": 0, "ts": at, "args": count}
        if step[DEVICE_START]:
            yield _span(_name(step), _DEVICE, step[DEVICE_START] - origin, step[DEVICE_TIME], does)


def _span(name: str, track: int, start: int, time: int, args: dict[str, int]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "pid": 0,
        "tid": track,
        "ts": start / 1e3,
        "dur": time / 1e3,
        "args": args,
    }


def _name(step: list[int]) -> str:
    if not step[TOKENS]:
        return "step"
    if not step[PROMPTS]:
        return f"decode {step[ROWS]}"
    kind = "prefill" if step[PROMPTS] == step[ROWS] else "mixed"
    return f"{kind} {step[ROWS]} ({step[TOKENS]} tokens)"
