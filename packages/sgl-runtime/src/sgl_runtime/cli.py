# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime serve … | bench latency … | bench serving … | env`: arguments in, exit code out.

The only module that prints and exits. What a server does not need is imported when its command is given, by
name, as `process` does: a server's launcher stays small, and `bench serving` free of torch.

Exit codes: 0 done, or stopped when asked; 1 a process died or a check failed; 2 it cannot be done as asked.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from sgl_runtime.bench.options import LatencyOptions, ServingOptions
from sgl_runtime.config import ServeConfig, add_flags, config_from, options_from
from sgl_runtime.errors import ConfigError, SglError
from sgl_runtime.launch import serve


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `sgl-runtime` and of `python -m sgl_runtime`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    values = vars(_parser().parse_args(arguments))
    command = values.pop("command")
    try:
        match command:
            case "serve":
                serve(config_from(values), announce=_announce)
            case "latency":
                own = {name: values.pop(name) for name in LatencyOptions.__struct_fields__}
                options = options_from(own, LatencyOptions)
                _entry("bench.latency:run")(config_from(values), options, _announce)
            case "serving":
                _entry("bench.serving:run")(options_from(values, ServingOptions), _announce)
            case "env":
                report = _entry("env:collect")()
                print(json.dumps(report, indent=2) if values["json"] else _entry("env:render")(report))
    except ConfigError as error:
        print(f"sgl-runtime: error: {error.message}", file=sys.stderr)
        return 2
    except SglError as error:
        print(f"sgl-runtime: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sgl-runtime", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=version("sgl-runtime"))
    commands = parser.add_subparsers(required=True, metavar="{serve,bench,env}")
    add_flags(_command(commands, "serve", "serve a model over HTTP"), ServeConfig)
    bench = commands.add_parser("bench", help="measure a server, or the engine alone", allow_abbrev=False)
    kinds = bench.add_subparsers(required=True, metavar="{latency,serving}")
    latency = _command(kinds, "latency", "a static batch on the engine itself, without a server")
    add_flags(latency, LatencyOptions)
    add_flags(latency.add_argument_group("the engine, as of `sgl-runtime serve`"), ServeConfig)
    add_flags(_command(kinds, "serving", "a running server, over HTTP"), ServingOptions)
    env = _command(commands, "env", "say what this machine and this installation are")
    env.add_argument("--json", action="store_true", help="as JSON")
    return parser


def _command(commands: Any, name: str, about: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=about,
        description=about,
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.set_defaults(command=name)
    return parser


def _entry(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"sgl_runtime.{module}"), function)


def _announce(text: str) -> None:
    print(text, flush=True)
