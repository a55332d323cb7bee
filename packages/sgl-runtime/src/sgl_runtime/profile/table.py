# SPDX-License-Identifier: Apache-2.0
"""Recorded steps as a table: the median and the 99th percentile of every phase, by the shape of the pass.

Steps are grouped by kind and by requests, up to the next power of two. In a decode step every request
computes one token, in a prefill step more, in a mixed step some do either: decoding ones beside prompts, or
a prompt of which all but one token was in the cache. With overlap a step waits for and commits the pass that
was launched one step before; in a run of like steps that is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sgl_runtime.messages import I64
from sgl_runtime.profile.spans import DEVICE_START, DEVICE_TIME, PROMPTS, ROWS, TOKENS, Phase, phases


@dataclass(frozen=True)
class Shape:
    """Steps of one kind and size. Times are microseconds, (median, 99th percentile)."""

    kind: str
    requests: tuple[int, int]  # the fewest and the most
    tokens: float  # median
    steps: int
    whole: tuple[float, float]  # all phases together
    phases: dict[str, tuple[float, float]]  # of Phase, over the steps that had it
    device: tuple[float, float] | None  # None: nobody timed the device


def shapes(steps: I64) -> list[Shape]:
    """The groups in `steps` (as `Spans.steps` gives them), the largest first; without those of no pass."""
    times = phases(steps)
    busy = steps[:, TOKENS] > 0
    groups: dict[tuple[str, int], list[int]] = {}
    for index in np.flatnonzero(busy).tolist():
        prompts, rows = int(steps[index, PROMPTS]), int(steps[index, ROWS])
        kind = "decode" if not prompts else "prefill" if prompts == rows else "mixed"
        groups.setdefault((kind, (rows - 1).bit_length()), []).append(index)
    found = [_shape(kind, steps[chosen], times[chosen]) for (kind, _), chosen in groups.items()]
    return sorted(found, key=lambda shape: -shape.steps)


def _shape(kind: str, steps: I64, times: I64) -> Shape:
    known = steps[steps[:, DEVICE_START] > 0, DEVICE_TIME]
    return Shape(
        kind=kind,
        requests=(int(steps[:, ROWS].min()), int(steps[:, ROWS].max())),
        tokens=float(np.median(steps[:, TOKENS])),
        steps=len(steps),
        whole=_spread(times.sum(axis=1)),
        phases={
            phase.name.lower(): _spread(had)
            for phase in Phase
            if len(had := times[times[:, phase] > 0, phase])
        },
        device=_spread(known) if len(known) else None,
    )


def _spread(nanoseconds: I64) -> tuple[float, float]:
    median, last = np.percentile(nanoseconds, (50, 99)) / 1e3
    return round(float(median), 1), round(float(last), 1)


def table(found: list[Shape], *, lost: int = 0) -> str:
    """The groups for a person to read: the columns that somebody has."""
    if not found:
        return "no step was recorded\n"
    names = [phase.name.lower() for phase in Phase if any(phase.name.lower() in s.phases for s in found)]
    timed = any(shape.device for shape in found)
    head = ["kind", "requests", "tokens", "steps", "whole step", *names, *(["device"] if timed else [])]
    rows = [head, *(_cells(shape, names, timed=timed) for shape in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["microseconds, median / 99th percentile"]
    for row in rows:
        kind, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([kind.lstrip().ljust(widths[0]), *others]))
    if lost:
        lines.append(f"{lost} steps before these were not kept")
    return "\n".join(lines) + "\n"


def _cells(shape: Shape, names: list[str], *, timed: bool) -> list[str]:
    low, high = shape.requests
    times = [shape.whole, *(shape.phases.get(name) for name in names), *([shape.device] if timed else [])]
    return [
        shape.kind,
        str(low) if low == high else f"{low}-{high}",
        f"{shape.tokens:.0f}",
        str(shape.steps),
        *("-" if time is None else f"{time[0]:.0f} / {time[1]:.0f}" for time in times),
    ]
