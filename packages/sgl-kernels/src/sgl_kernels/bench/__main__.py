# SPDX-License-Identifier: Apache-2.0
"""`python -m sgl_kernels.bench [--groups norm,sampling] [--json FILE]`: checks and times every operation.

Prints one table. Ends with status 1 if a check failed. Needs a CUDA device. FlashInfer compiles a module when
it is first used in sampling, decode and extend, up to two minutes each: `--no-flashinfer` leaves it out, and
`--seconds` stops before a case that would begin later, so that a long run can be had in parts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType

import torch

from sgl_kernels import available
from sgl_kernels.bench import activation, decode, extend, kv, linear, logits, moe, norm, rope, sampling
from sgl_kernels.bench.harness import Case, Rates, Row, measure_rates, run_case

_GROUPS: Mapping[str, Callable[[], Iterator[Case]]] = MappingProxyType(
    {
        "norm": norm.cases,
        "activation": activation.cases,
        "rope": rope.cases,
        "kv": kv.cases,
        "logits": logits.cases,
        "linear": linear.cases,
        "sampling": sampling.cases,
        "moe": moe.cases,
        "decode": decode.cases,
        "extend": extend.cases,
    }
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m sgl_kernels.bench", description=__doc__)
    parser.add_argument("--groups", default=",".join(_GROUPS), help="by commas; all if none is named")
    parser.add_argument("--only", default="", help="only cases whose operation and size contain this text")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--only-ours", action="store_true", help="leave torch and FlashInfer out")
    parser.add_argument("--no-flashinfer", action="store_true", help="leave FlashInfer out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case after so long")
    options = parser.parse_args()
    groups = [group for group in options.groups.split(",") if group]
    if unknown := sorted(set(groups) - set(_GROUPS)):
        parser.error(f"no group is called {', '.join(unknown)}; there are: {', '.join(_GROUPS)}")
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device; on a CPU use bench/cpu.py")
    for name, found in available().items():
        print(f"{name}: {'yes' if found.usable else 'no'}, {found.reason}")
    rates = measure_rates()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: ", end="")
    print(f"copy {rates.copy / 1e12:.2f} TB/s, matrix product {rates.matmul / 1e12:.0f} TFLOP/s")
    print("\n| operation | size | us | floor us | of floor | beside, us | relative error |")
    print("|---|---|---:|---:|---:|---|---:|")
    rows: list[Row] = []
    left_out: list[str] = []
    beside = _beside(options.only_ours, options.no_flashinfer)
    end = time.monotonic() + options.seconds
    for group in groups:
        begun, start = len(rows), time.monotonic()
        with torch.inference_mode():
            for case in _GROUPS[group]():
                if options.only not in f"{case.operation} {case.size}":
                    continue
                if time.monotonic() > end:
                    left_out.append(f"{case.operation} {case.size}")
                    continue
                rows.append(_run(case, rates, beside))
                print(_line(rows[-1]), flush=True)
                torch.cuda.empty_cache()
        print(f"{group}: {len(rows) - begun} cases, {time.monotonic() - start:.0f} s", file=sys.stderr)
    if left_out:
        print(f"\nNot begun within {options.seconds:.0f} s: {'; '.join(left_out)}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rates": asdict(rates), "rows": [asdict(row) for row in rows]}, file, indent=1)
    failures = [row for row in rows if row.failed]
    for row in failures:
        print(f"FAILED {row.operation} {row.size}: {row.failed}")
    return 1 if failures else 0


def _beside(only_ours: bool, no_flashinfer: bool) -> Callable[[str], bool]:
    """Which implementations are timed beside ours, by name."""
    return lambda name: not (only_ours or (no_flashinfer and name.lower().startswith("flashinfer")))


def _line(row: Row) -> str:
    beside = ", ".join(
        f"{name} {value if isinstance(value, str) else format(value, '.1f')}"
        for name, value in row.others.items()
    )
    error = "" if row.error is None else f"{row.error:.1e}"
    share = f"{row.floor / row.microseconds:.2f}" if row.microseconds else ""
    figures = f"{row.microseconds:.1f} | {row.floor:.1f} | {share} | {beside} | {error}"
    return f"| {row.operation} | {row.size} | {figures} |"


def _run(case: Case, rates: Rates, beside: Callable[[str], bool]) -> Row:
    """A case that fails is a line of the table, not the end of it."""
    try:
        return run_case(case, rates, beside)
    except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
        traceback.print_exc()
        return Row(case.operation, case.size, 0.0, 0.0, {}, None, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
