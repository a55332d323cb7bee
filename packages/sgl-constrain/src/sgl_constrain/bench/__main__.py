# SPDX-License-Identifier: Apache-2.0
"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

from sgl_constrain.bench.cases import select
from sgl_constrain.bench.engines import ENGINES, installed
from sgl_constrain.bench.jumping import measure, table
from sgl_constrain.bench.measuring import CLOCKS
from sgl_constrain.bench.report import each, markdown, values
from sgl_constrain.bench.running import run
from sgl_constrain.bench.tokenizers import DEFAULT, load
from sgl_constrain.errors import ConstrainError


def main() -> None:
    options = _options()
    cases = select(options.cases)
    if not cases:
        raise SystemExit(f"no case is a 'schema' or 'regex' or named like {' '.join(options.cases)}")
    try:
        tokenizer = load(options.vocabulary)
    except ConstrainError as error:
        raise SystemExit(str(error)) from error
    if options.jump_forward:
        print(table(tokenizer, measure(tokenizer, cases)))
        return
    versions = {name: installed(name) for name in options.engines}
    present = {name: version for name, version in versions.items() if version is not None}
    absent = [name for name in options.engines if name not in present]
    say = (lambda line: print(line, file=sys.stderr)) if options.verbose else (lambda line: None)
    runs = [
        run(name, version, options.vocabulary, cases, limit=options.limit, time_of=options.time, say=say)
        for name, version in present.items()
    ]
    print(f"{len(tokenizer.tokens)} tokens ({Path(options.vocabulary).name}), one thread", end="")
    print(f", {options.time} time, Python {platform.python_version()}", end="")
    print(f"; not installed: {', '.join(absent)}\n" if absent else "\n")
    print(markdown(runs, cases))
    if options.each:
        print(each(runs, cases))
    if options.json:
        Path(options.json).write_text(json.dumps(values(runs, cases), indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m sgl_constrain.bench", allow_abbrev=False)
    add = parser.add_argument
    names = ", ".join(ENGINES)
    add("--engines", nargs="+", choices=list(ENGINES), default=list(ENGINES), metavar="NAME", help=names)
    add("--cases", nargs="+", default=[], metavar="WORD", help="schema, regex, or parts of cases' names")
    files = "a tekken.json, tokenizer.json, .gguf or .model file"
    add("--vocabulary", default=DEFAULT, metavar="NAME", help=f"tekken (the default), smollm2, or {files}")
    limit = "for the first mask of a case, and again for its texts (default 20)"
    add("--limit", type=float, default=20.0, metavar="SECONDS", help=limit)
    clocks = "wall (the default), or cpu: of the measured thread, for a machine that does other things too"
    add("--time", choices=list(CLOCKS), default="wall", help=clocks)
    add("--each", action="store_true", help="also a table with a row for each case")
    add("--json", metavar="FILE", help="also write every figure to a file")
    add("--verbose", action="store_true", help="name each case on stderr when it is done")
    add("--jump-forward", action="store_true", help="measure the tokens of forced text instead")
    return parser.parse_args()


if __name__ == "__main__":
    main()
