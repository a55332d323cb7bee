# SPDX-License-Identifier: Apache-2.0
"""Prints the size of the product code: files and lines of each package, and the largest files and functions.

    python tools/sizes.py [--top 10] [--environ]

A person judges the table. `--environ` also lists every mention of os.environ outside config.py, and fails on
one.
"""

from __future__ import annotations

import argparse
import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def sources(package: Path) -> list[Path]:
    return sorted((package / "src").rglob("*.py"))


def functions(path: Path) -> Iterator[tuple[int, str]]:
    """(lines, name) of every function of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.end_lineno - node.lineno + 1, f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"


def environment_reads(path: Path) -> Iterator[str]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if "os.environ" in line and path.name != "config.py":
            yield f"{path.relative_to(ROOT)}:{number}: {line.strip()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None, allow_abbrev=False
    )
    parser.add_argument("--top", type=int, default=8)
    parser.add_argument("--environ", action="store_true")
    options = parser.parse_args()
    everything: list[tuple[int, Path]] = []
    print(f"{'package':<16}{'files':>6}{'lines':>8}{'median':>8}{'largest':>9}")
    for package in sorted((ROOT / "packages").iterdir()):
        counted = [(len(path.read_text().splitlines()), path) for path in sources(package)]
        everything += counted
        sizes = [lines for lines, _ in counted]
        print(
            f"{package.name:<16}{len(sizes):>6}{sum(sizes):>8}{statistics.median(sizes):>8.0f}{max(sizes):>9}"
        )
    print("\nlargest files")
    for lines, path in sorted(everything, reverse=True)[: options.top]:
        print(f"{lines:>6}  {path.relative_to(ROOT)}")
    print("\nlongest functions")
    for length, name in sorted((f for _, path in everything for f in functions(path)), reverse=True)[
        : options.top
    ]:
        print(f"{length:>6}  {name}")
    if options.environ:
        reads = [read for _, path in everything for read in environment_reads(path)]
        if reads:
            raise SystemExit("environment variables are read in config.py alone:\n" + "\n".join(reads))


if __name__ == "__main__":
    main()
