# SPDX-License-Identifier: Apache-2.0
"""`Figures`: how long requests took and how they ended, since the start, as plain numbers.

Counted where deltas arrive, so a slow reader does not spoil them. Knows no format; `http.metrics` has one.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable
from functools import partial

import msgspec

from sgl_runtime.messages import (
    Aborted,
    Delta,
    Finish,
    Pooled,
    StoppedByConstraint,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)

# Bounds in seconds: a third of a decade apart where most requests of most models fall.
_FIRST = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
_BETWEEN = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_WHOLE = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
_ENDS = ("stop", "length", "pooled", "abort", "error")


class Histogram(msgspec.Struct):
    """`counts[i]`: observations in (bounds[i - 1], bounds[i]]; the last one: above all bounds."""

    bounds: tuple[float, ...]
    counts: list[int]
    sum: float = 0.0

    @classmethod
    def empty(cls, bounds: tuple[float, ...]) -> Histogram:
        return cls(bounds, [0] * (len(bounds) + 1))

    def add(self, other: Histogram) -> None:
        """What another has counted, within the same bounds."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class Times:
    """When one sample was asked for, had its first token and its last one so far; time.monotonic. `queued`:
    seconds that it was in the line.
    """

    __slots__ = ("asked", "first", "last", "queued")

    def __init__(self) -> None:
        self.asked = time.monotonic()
        self.first: float | None = None
        self.last: float | None = None
        self.queued: float | None = None


class Figures(msgspec.Struct):
    """Of one api process, or with `add` of several."""

    time_to_first_token: Histogram = msgspec.field(default_factory=partial(Histogram.empty, _FIRST))
    inter_token: Histogram = msgspec.field(default_factory=partial(Histogram.empty, _BETWEEN))
    end_to_end: Histogram = msgspec.field(default_factory=partial(Histogram.empty, _WHOLE))
    queue: Histogram = msgspec.field(default_factory=partial(Histogram.empty, _FIRST))
    finished: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(_ENDS, 0))
    refused: int = 0  # requests turned away since too many waited, or the server was ending

    @property
    def ended(self) -> int:
        """Requests, however they ended."""
        return sum(self.finished.values())

    def add(self, other: Figures) -> None:
        for name in ("time_to_first_token", "inter_token", "end_to_end", "queue"):
            getattr(self, name).add(getattr(other, name))
        for end, count in other.finished.items():
            self.finished[end] += count
        self.refused += other.refused

    def waited(self, seconds: Iterable[float]) -> None:
        for wait in seconds:
            self.queue.observe(wait)

    def heard(self, times: Times, delta: Delta, now: float) -> None:
        """A replica has answered; before the stream is told. Tokens that come together share the time since
        the ones before them."""
        if count := len(delta.tokens):
            if times.last is None:
                times.first = now
                self.time_to_first_token.observe(now - times.asked)
            else:
                self.inter_token.observe((now - times.last) / count, count)
            times.last = now
        if delta.finish is not None:
            if not isinstance(delta.finish, Aborted):
                self.end_to_end.observe(now - times.asked)
            self.finished[ending(delta.finish)] += 1

    def aborted(self) -> None:
        """A sample was ended before its time: by request, or because its reader left."""
        self.finished["abort"] += 1

    def failed(self) -> None:
        """A sample ended since there is no engine any more."""
        self.finished["error"] += 1


def ending(finish: Finish) -> str:
    """One of the ends that are counted."""
    match finish:
        case StoppedByToken() | StoppedByString() | StoppedByConstraint():
            return "stop"
        case StoppedByLength():
            return "length"
        case Pooled():
            return "pooled"
        case Aborted():
            return "error"  # the engine gave it up
