# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime serve …`: arguments in, exit code out. The only module that prints and exits.

Exit codes: 0 stopped when asked; 1 a process of the server died; 2 the server cannot start as asked.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from sgl_runtime.config import add_flags, config_from
from sgl_runtime.errors import ConfigError, SglError
from sgl_runtime.launch import serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `sgl-runtime` and of `python -m sgl_runtime`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    parser = argparse.ArgumentParser(prog="sgl-runtime", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=version("sgl-runtime"))
    commands = parser.add_subparsers(dest="command", required=True)
    serve_parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_flags(serve_parser)
    values = vars(parser.parse_args(arguments))
    del values["command"]
    try:
        serve(config_from(values), announce=_announce)
    except ConfigError as error:
        print(f"sgl-runtime: error: {error.message}", file=sys.stderr)
        return 2
    except SglError as error:
        print(f"sgl-runtime: {error.message}", file=sys.stderr)
        return 1
    return 0


def _announce(text: str) -> None:
    print(text, flush=True)
