# SPDX-License-Identifier: Apache-2.0
"""Outcomes -> figures. Each is either of one request (latencies) or of all of them together (throughputs).

TTFT  time to first token     from sending the request to the first event with a token
TPOT  time per output token   (last event - first event) / (tokens - 1), one number for each request
ITL   inter-token latency     from one event to the next; an event may hold several tokens
E2E   end to end              from sending the request to the end of the answer
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgl_runtime.bench.client import Outcome
from sgl_runtime.errors import EngineDied
from sgl_runtime.text.tokenizer import Tokenizer

LATENCIES = ("e2e_latency", "ttft", "tpot", "itl")
_P99 = 99


@dataclass(frozen=True)
class Figures:
    """Of one run. `row`: those of the JSON line; `latencies`: the milliseconds they come from, by name."""

    row: dict[str, Any]
    latencies: dict[str, list[float]]


def measure(outcomes: Sequence[Outcome], tokenizer: Tokenizer | None) -> Figures:
    """Of the requests that were answered. `tokenizer` counts answers again, and for servers that do not.

    Raises EngineDied if none was answered, or if nobody counts its tokens.
    """
    answered = [outcome for outcome in outcomes if not outcome.error]
    errors = [outcome.error for outcome in outcomes if outcome.error]
    if not answered:
        raise EngineDied(f"none of {len(outcomes)} requests was answered; the first: {errors[0]}")
    counted = [
        None if tokenizer is None else len(tokenizer.encode(outcome.text, add_special=False))
        for outcome in answered
    ]
    outputs = [
        outcome.output_tokens if outcome.output_tokens is not None else again
        for outcome, again in zip(answered, counted, strict=True)
    ]
    if None in outputs:
        raise EngineDied("the server does not say how many tokens it made (usage): give --tokenizer")
    tokens = np.array(outputs, np.int64)
    duration = max(o.end for o in answered) - min(o.start for o in answered)
    prompt = _total([outcome.prompt_tokens for outcome in answered])
    latencies = _latencies(answered, tokens)
    throughput = {
        "request_throughput": len(answered) / duration,
        "input_throughput": None if prompt is None else prompt / duration,
        "output_throughput": float(tokens.sum()) / duration,
        "total_throughput": None if prompt is None else (prompt + float(tokens.sum())) / duration,
        "concurrency": sum(o.end - o.start for o in answered) / duration,
    }
    speeds = [1e3 / tpot for tpot in latencies["tpot"] if tpot > 0]
    row: dict[str, Any] = {
        "completed": len(answered),
        "failed": len(errors),
        "first_error": errors[0] if errors else None,
        "duration": duration,
        "total_input_tokens": prompt,
        "total_cached_tokens": _total([outcome.cached_tokens for outcome in answered]),
        "total_output_tokens": int(tokens.sum()),
        "total_output_tokens_retokenized": _total(counted),
        **throughput,
        "mean_output_speed_per_request": float(np.mean(speeds)) if speeds else None,
        "median_output_speed_per_request": float(np.median(speeds)) if speeds else None,
    }
    for name in LATENCIES:
        row |= _spread(name, latencies[name])
    return Figures(row, latencies)


def _latencies(
    answered: Sequence[Outcome], tokens: np.ndarray[Any, np.dtype[np.int64]]
) -> dict[str, list[float]]:
    """Milliseconds."""
    streamed = [(o, count) for o, count in zip(answered, tokens.tolist(), strict=True) if o.stamps]
    return {
        "e2e_latency": [1e3 * (outcome.end - outcome.start) for outcome in answered],
        "ttft": [1e3 * (outcome.stamps[0] - outcome.start) for outcome, _ in streamed],
        "tpot": [
            1e3 * (outcome.stamps[-1] - outcome.stamps[0]) / (count - 1)
            for outcome, count in streamed
            if count > 1
        ],
        "itl": [float(gap) for outcome, _ in streamed for gap in 1e3 * np.diff(outcome.stamps)],
    }


def _spread(name: str, milliseconds: list[float]) -> dict[str, float | None]:
    keys = [f"{kind}_{name}_ms" for kind in ("mean", "median", "std", "p99")]
    if not milliseconds:
        return dict.fromkeys(keys)
    values = np.array(milliseconds)
    spread = (values.mean(), np.median(values), values.std(), np.percentile(values, _P99))
    return {key: float(value) for key, value in zip(keys, spread, strict=True)}


def _total(counts: Sequence[int | None]) -> int | None:
    """None if one is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def describe(title: str, row: dict[str, Any]) -> str:
    """The figures for a person. What one request sees and what all of them add up to are told apart."""
    lines = [f"== {title}"]
    failed = f", {row['failed']} failed: {row['first_error']}" if row["failed"] else ""
    lines.append(f"requests answered      {row['completed']} in {row['duration']:.2f} s{failed}")
    cached = row["total_cached_tokens"]
    again = row["total_output_tokens_retokenized"]
    lines += [
        f"tokens in              {_number(row['total_input_tokens'], 0)}"
        + (f", of which {cached} cached" if cached else ""),
        f"tokens out             {row['total_output_tokens']}"
        + (f", counted again from the text {again}" if again is not None else ""),
        "-- all requests together",
        f"requests/s             {_number(row['request_throughput'])}",
        f"tokens/s in            {_number(row['input_throughput'], 1)}",
        f"tokens/s out           {_number(row['output_throughput'], 1)}",
        f"tokens/s in and out    {_number(row['total_throughput'], 1)}",
        f"in flight, mean        {_number(row['concurrency'])}",
        "-- one request",
        f"tokens/s out, median   {_number(row['median_output_speed_per_request'], 1)}"
        "  (of one stream after its first token)",
        f"{'milliseconds':<23}{'mean':>11}{'median':>11}{'p99':>11}",
    ]
    names = {"ttft": "TTFT, first token", "tpot": "TPOT, each after it", "itl": "ITL, between events"}
    for name in (*names, "e2e_latency"):
        cells = "".join(f"{_number(row[f'{kind}_{name}_ms']):>11}" for kind in ("mean", "median", "p99"))
        lines.append(f"{names.get(name, 'E2E, whole answer'):<23}{cells}")
    return "\n".join(lines)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
