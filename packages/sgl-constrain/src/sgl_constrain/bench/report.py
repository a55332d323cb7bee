# SPDX-License-Identifier: Apache-2.0
"""The figures of several runs as Markdown tables, and as plain values for JSON.

Percentiles are over all cases of a kind that an engine compiled in time. Since engines refuse different
cases, a second table compares each with the first engine on the cases that both compiled.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

from sgl_constrain.bench.cases import Case
from sgl_constrain.bench.measuring import Measured
from sgl_constrain.bench.running import Run

_COLUMNS = (
    "engine",
    "ok",
    "refused",
    "too slow",
    "first mask ms p50 / p90 / max",
    "new mask us mean / p50 / p99 / max",
    "mask met again us p50 / p99",
    "accept us",
    "MB a grammar p50 / max",
    "load s / MB",
    "valid texts refused",
    "invalid texts accepted",
)
_PAIRS = ("engine", "cases", "first mask ms", "new mask us", "mask met again us", "MB a grammar")


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie, counted up: the maximum for 1. NaN without values."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def markdown(runs: Sequence[Run], cases: Sequence[Case]) -> str:
    """Tables for schemas and for patterns, whichever are among the cases."""
    parts: list[str] = []
    for kind, title in (("schema", "JSON Schema"), ("regex", "Regex")):
        places = [i for i, case in enumerate(cases) if case.kind == kind]
        if not places:
            continue
        texts = sum(len(cases[i].valid) for i in places), sum(len(cases[i].invalid) for i in places)
        parts.append(f"### {title}: {len(places)} cases, {texts[0]} valid and {texts[1]} invalid texts\n")
        parts.append(_table(_COLUMNS, (_row(run, places) for run in runs)))
        if len(runs) > 1:
            parts.append(f"\nMeans on the cases that both compile, {runs[0].engine} behind the stroke:\n")
            parts.append(_table(_PAIRS, (_pair(run, runs[0], places) for run in runs[1:])))
        parts.append("")
    return "\n".join(parts)


def each(runs: Sequence[Run], cases: Sequence[Case]) -> str:
    """A row a case: first mask ms / slowest new mask us / median mask met again us."""
    columns = ("case", *(run.engine for run in runs))
    rows = ([f"{c.kind}: {c.name}", *(_cell(run.measured[i]) for run in runs)] for i, c in enumerate(cases))
    return "First mask ms / slowest new mask us / median mask met again us:\n\n" + _table(columns, rows)


def values(runs: Sequence[Run], cases: Sequence[Case]) -> dict[str, Any]:
    """Everything measured, for JSON; times in seconds, memory in bytes."""
    return {
        run.engine: {
            "version": run.version,
            "load": asdict(run.loaded),
            "cases": {
                f"{case.kind}: {case.name}": asdict(found)
                for case, found in zip(cases, run.measured, strict=True)
            },
        }
        for run in runs
    }


def _row(run: Run, places: Sequence[int]) -> list[str]:
    found = [run.measured[i] for i in places]
    ok = [one for one in found if one.outcome == "ok"]
    first, cold = [one.first for one in ok], _all(one.cold for one in ok)
    warm, accept = _all(one.warm for one in ok), _all(one.accept for one in ok)
    memory = [float(one.memory) for one in ok if one.memory is not None]
    slow = sum(one.outcome in ("slow", "crashed") for one in found)
    return [
        f"{run.engine} {run.version}",
        str(len(ok)),
        str(sum(one.outcome == "refused" for one in found)),
        str(slow) + (" (+ texts cut)" if any(one.cut for one in ok) else ""),
        _figures(1e3, quantile(first, 0.5), quantile(first, 0.9), quantile(first, 1)),
        _figures(1e6, _mean(cold), quantile(cold, 0.5), quantile(cold, 0.99), quantile(cold, 1)),
        _figures(1e6, quantile(warm, 0.5), quantile(warm, 0.99)),
        _figures(1e6, quantile(accept, 0.5)),
        _figures(2**-20, quantile(memory, 0.5), quantile(memory, 1)),
        f"{run.loaded.seconds:.1f} / {_figures(2**-20, run.loaded.memory)}",
        str(sum(one.valid_refused for one in ok)),
        str(sum(one.invalid_accepted for one in ok)),
    ]


def _pair(run: Run, other: Run, places: Sequence[int]) -> list[str]:
    both = [i for i in places if run.measured[i].outcome == other.measured[i].outcome == "ok"]
    means = [_means([one.measured[i] for i in both]) for one in (run, other)]
    scales = (1e3, 1e6, 1e6, 2**-20)
    cells = [_figures(scale, *pair) for scale, *pair in zip(scales, *means, strict=True)]
    return [run.engine, str(len(both)), *cells]


def _means(found: Sequence[Measured]) -> tuple[float, float, float, float]:
    """First mask, new mask, mask met again, memory."""
    memory = [float(one.memory) for one in found if one.memory is not None]
    cold, warm = _all(one.cold for one in found), _all(one.warm for one in found)
    return _mean([one.first for one in found]), _mean(cold), _mean(warm), _mean(memory)


def _cell(one: Measured) -> str:
    if one.outcome != "ok":
        return one.outcome
    parts = (
        _figures(1e3, one.first),
        _figures(1e6, quantile(one.cold, 1)),
        _figures(1e6, quantile(one.warm, 0.5)),
    )
    faults = f" ({one.valid_refused} refused)" if one.valid_refused else ""
    return " / ".join(parts) + faults


def _figures(scale: float, *numbers: float | None) -> str:
    """Three digits of each, `-` for what is not known."""
    known = (None if number is None or number != number else number * scale for number in numbers)
    return " / ".join("-" if n is None else f"{n:.0f}" if n >= 99.5 else f"{n:.3g}" for n in known)


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def _all(lists: Iterable[list[float]]) -> list[float]:
    return list(chain.from_iterable(lists))


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
