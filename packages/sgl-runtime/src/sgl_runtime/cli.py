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
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from sgl_runtime.bench.options import LatencyOptions, ServingOptions
from sgl_runtime.config import ServeConfig, add_flags, config_from, options_from
from sgl_runtime.errors import ConfigError, SglError
from sgl_runtime.launch import serve

_NODES = "a server runs on one machine: --tp divides the model among its devices, --dp repeats it"
_ALWAYS = "that is decided by the model and the device: leave the flag out"
# Flags of SGLang's server that have no place here -> what to do without.
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "--trust-remote-code": "no code of a checkpoint is ever run: leave the flag out",
        "--quantization": "quantised weights are read from a GGUF file: give one as --model-path",
        "--tokenizer-mode": "there is one kind of tokenizer: leave the flag out",
        "--max-num-reqs": "requests at once are limited by --max-running-requests",
        "--additional-ports": "--port is the only one that is needed: leave the flag out",
        "--show-time-cost": "where the time goes is told by --profile",
        "--disable-disk-cache": "grammars are not kept on disk: leave the flag out",
        "--nnodes": _NODES,
        "--node-rank": _NODES,
        "--nccl-init-addr": _NODES,
        "--nccl-init": _NODES,
        "--enable-mla": _ALWAYS,
        "--enable-p2p-check": _ALWAYS,
        "--attention-reduce-in-fp32": _ALWAYS,
        "--efficient-weight-load": _ALWAYS,
    }
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `sgl-runtime` and of `python -m sgl_runtime`."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of one command line."""
    values = _parsed(arguments)
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


def _parsed(arguments: Sequence[str]) -> dict[str, Any]:
    parser = _parser()
    known, others = parser.parse_known_args(arguments)
    if others:
        flags = [flag.partition("=")[0] for flag in others]
        instead = [_INSTEAD[flag] for flag in flags if flag in _INSTEAD and known.command != "serving"]
        parser.error("; ".join([f"unrecognized arguments: {' '.join(others)}", *dict.fromkeys(instead)]))
    return vars(known)


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
