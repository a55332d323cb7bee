# SPDX-License-Identifier: Apache-2.0
"""`python -m sgl_kernels.bench [operation ...] [--json FILE]`: checks and times every operation.

Prints a table. Ends with status 1 if a check failed. Needs a CUDA device.
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
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(_GROUPS)}; all if none is named")
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--only-ours", action="store_true", help="leave torch and FlashInfer out")
    options = parser.parse_args()
    unknown = sorted(set(options.groups) - set(_GROUPS))
    if unknown:
        parser.error(f"no group is called {', '.join(unknown)}; there are: {', '.join(_GROUPS)}")
    if not torch.cuda.is_available():
        parser.error("needs a CUDA device; on a CPU use bench/cpu.py")
    for name, found in available().items():
        print(f"{name}: {'yes' if found.usable else 'no'}, {found.reason}")
    rates = measure_rates()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}: ", end="")
    print(f"copy {rates.copy / 1e12:.2f} TB/s, matrix product {rates.matmul / 1e12:.0f} TFLOP/s")
    rows = [
        row for group in options.groups or _GROUPS for row in run_group(group, rates, not options.only_ours)
    ]
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"rates": asdict(rates), "rows": [asdict(row) for row in rows]}, file, indent=1)
    failures = [row for row in rows if row.failed]
    for row in failures:
        print(f"FAILED {row.operation} {row.size}: {row.failed}")
    return 1 if failures else 0


def run_group(group: str, rates: Rates, others: bool) -> list[Row]:
    print(f"\n### {group}\n\n| operation | size | us | floor us | of floor | beside, us | relative error |")
    print("|---|---|---:|---:|---:|---|---:|")
    start, rows = time.monotonic(), []
    with torch.inference_mode():
        for case in _GROUPS[group]():
            row = _run(case, rates, others)
            rows.append(row)
            beside = ", ".join(
                f"{name} {value if isinstance(value, str) else format(value, '.1f')}"
                for name, value in row.others.items()
            )
            error = "" if row.error is None else f"{row.error:.1e}"
            share = f"{row.floor / row.microseconds:.2f}" if row.microseconds else ""
            figures = f"{row.microseconds:.1f} | {row.floor:.1f} | {share} | {beside} | {error}"
            print(f"| {row.operation} | {row.size} | {figures} |", flush=True)
            torch.cuda.empty_cache()
    print(f"\n{time.monotonic() - start:.0f} s")
    return rows


def _run(case: Case, rates: Rates, others: bool) -> Row:
    """A case that fails is a line of the table, not the end of it."""
    try:
        return run_case(case, rates, others=others)
    except (RuntimeError, ValueError, torch.OutOfMemoryError) as error:
        traceback.print_exc()
        return Row(case.operation, case.size, 0.0, 0.0, {}, None, f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    sys.exit(main())
