# SPDX-License-Identifier: Apache-2.0
"""How an operation is checked and timed. Knows no operation: each module beside this one yields its `Case`s.

Time: a CUDA graph of calls over several sets of inputs (together larger than the L2 cache, so that memory is
read, not cache), replayed; the median replay over the number of calls. Floor: the larger of bytes over the
measured copy rate and operations over the measured rate of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]

_L2 = 128 << 20  # bytes that flush the cache of any GPU of today
_MOST_SETS = 48
_REPLAYS = 15
_MILLISECONDS = 2.0  # a graph should take at least this long


@dataclass(frozen=True)
class Prepared:
    """One set of inputs, bound to every implementation. `check` gives the relative error of `ours`."""

    ours: Call
    others: Mapping[str, Call] = field(default_factory=dict)
    check: Callable[[], float] | None = None


@dataclass(frozen=True)
class Case:
    """An operation at a size. prepare: makes one fresh set of random inputs on the GPU.

    bytes: the fewest that must be read and written; flops: the fewest multiplications and additions in tensor
    cores; limit: how large the relative error may be; goal: the share of the floor's rate that is aimed at.
    """

    operation: str
    size: str
    prepare: Callable[[], Prepared]
    bytes: int
    flops: int = 0
    limit: float = 1e-2
    goal: float | None = None


@dataclass(frozen=True)
class Rates:
    copy: float  # bytes a second, read plus written
    matmul: float  # bf16 operations a second


@dataclass(frozen=True)
class Row:
    operation: str
    size: str
    microseconds: float
    floor: float  # microseconds
    others: Mapping[str, float | str]  # microseconds, or why there are none
    error: float | None
    failed: str | None = None


def relative_error(out: Tensor, reference: Tensor) -> float:
    """‖out - reference‖ / ‖reference‖ in float64; NaN where something is not finite."""
    out, reference = out.double(), reference.double().to(out.device)
    norm = reference.norm().item()
    return float((out - reference).norm().item() / norm) if norm else float(out.norm().item())


def poison(x: Tensor) -> Tensor:
    """x filled with NaN (integers: with their least value), to see what is written."""
    return x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).min)


def measure_rates() -> Rates:
    """The copy outside of a graph: inside of one it is given to a copy engine, which is slower."""
    pair = torch.randn(2, 1 << 29, device="cuda")
    pair[0].copy_(pair[1])
    copy = pair.nbytes / (median(_time_once([lambda: pair[0].copy_(pair[1])] * 4) for _ in range(9)) * 1e-6)
    a, b = torch.randn(2, 8192, 8192, device="cuda").bfloat16()
    return Rates(copy, 2 * 8192**3 / (time_calls([lambda: a @ b]) * 1e-6))


def time_calls(calls: Sequence[Call]) -> float:
    """Microseconds of one call; `calls` are the same work on different inputs."""
    for call in calls[:3]:
        call()
    torch.cuda.synchronize()
    once = _time_once(calls)
    rounds = max(1, min(200, round(_MILLISECONDS * 1e3 / (once * len(calls)))))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(rounds):
            for call in calls:
                call()
    graph.replay()
    times = []
    for _ in range(_REPLAYS):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return median(times) * 1e3 / (rounds * len(calls))


def _time_once(calls: Sequence[Call]) -> float:
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for call in calls:
        call()
    stop.record()
    torch.cuda.synchronize()
    return max(1.0, start.elapsed_time(stop) * 1e3 / len(calls))


def run_case(case: Case, rates: Rates, beside: Callable[[str], bool]) -> Row:
    """Checks the case on one set of inputs, then times it on as many as flush the cache, and what is beside
    it."""
    floor = max(case.bytes / rates.copy, case.flops / rates.matmul) * 1e6
    sets = [case.prepare()]
    check = sets[0].check
    error = None if check is None else check()
    failed = None
    if error is not None and not error <= case.limit:
        failed = f"relative error {error:.2g} is above {case.limit:.2g}"
    count = min(_MOST_SETS, 1 + _L2 // max(1, case.bytes))
    sets += [case.prepare() for _ in range(count - 1)]
    ours = time_calls([one.ours for one in sets])
    others: dict[str, float | str] = {
        name: time_calls([one.others[name] for one in sets]) for name in sets[0].others if beside(name)
    }
    return Row(case.operation, case.size, ours, floor, others, error, failed)
