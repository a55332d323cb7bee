# SPDX-License-Identifier: Apache-2.0
"""A ServeConfig -> the processes of one server, with their addresses; start them, watch them, stop them.

                    launcher (this file: no torch, no HTTP)
            ┌──────────────┼────────────────────────┐
      api (or api0, …)  replica0 (rank 0)  …    replica0/rank1 …

The first process to die stops the rest. SIGTERM and Ctrl-C drain: the api processes answer what they have
begun, then everything ends with exit code 0.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from sgl_runtime import log
from sgl_runtime.address import base_url, listening_place
from sgl_runtime.checkpoint.config import ModelConfig, read_config
from sgl_runtime.checkpoint.division import share_heads
from sgl_runtime.checkpoint.locate import locate
from sgl_runtime.config import Environment, ServeConfig, bound_caches, share_cores
from sgl_runtime.errors import ConfigError, SglError
from sgl_runtime.messages import Capacity, Died, Open, Ready, encode
from sgl_runtime.process import (
    Child,
    Program,
    Terminated,
    drain,
    stop,
    supervise,
    termination_as_exception,
    uninterrupted,
)
from sgl_runtime.profile.report import check_folder
from sgl_runtime.tls import tls_context

_logger = log.logger(__name__)
_ECHO_S = 0.1  # a signal to all processes comes a second time where a wrapper, like `uv run`, passes it on
_DRAIN_MARGIN_S = 5.0  # for the api process to end, beyond what its clients get
_FAIL_S = 2.0  # for the api process to tell its clients that the engine died
_STOP_S = 2.0  # for everything else


def serve(config: ServeConfig, *, announce: Callable[[str], None] = _logger.info) -> None:
    """Serve until SIGTERM or Ctrl-C; call it from the main thread. `announce` gets the text for a person.

    Raises ConfigError when the server cannot start as asked, EngineDied when one of its processes ends.
    """
    started = time.monotonic()
    log.configure("launcher", config.log_level)
    share_cores()
    bound_caches()
    children: list[Child] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(termination_as_exception())
        check_folder(config.profile)
        tls_context(config)
        _check_tracing(config)
        listener = stack.enter_context(listening_place(config))
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sgl-", ignore_cleanup_errors=True))
        )
        stack.callback(_stop_all, children)
        try:
            config, model, path = resolve(config)
            for program in _programs(config, model, path, folder, listener, time.monotonic()):
                children.append(Child(program))
            apis, ranks = children[: config.http_workers], children[config.http_workers :]
            readies = _open(apis, ranks)
            _logger.info("start-up: %s", _breakdown(children, readies))
            announce(_welcome(config, path, listener, readies, time.monotonic() - started))
            raise _told(apis, supervise(children))
        except (Terminated, KeyboardInterrupt):
            seconds = config.drain_timeout
            with uninterrupted():
                _logger.info(
                    "stopping; requests that have begun get up to %.0f s, or until the next signal", seconds
                )
                time.sleep(_ECHO_S)
            seconds += _DRAIN_MARGIN_S
            with contextlib.suppress(Terminated, KeyboardInterrupt):
                apis, ranks = children[: config.http_workers], children[config.http_workers :]
                if apis and (reason := drain(apis, ranks, seconds=seconds)) is not None:
                    raise _told(apis, reason) from None


def resolve(config: ServeConfig) -> tuple[ServeConfig, ModelConfig, Path]:
    """The files that `config` names, fetched if need be: the config with them, the model, and its path.

    Raises ConfigError for what can be known to fail before any process starts.
    """
    modelscope = Environment.read().use_modelscope
    path = locate(config.model_path, load_format=config.load_format, use_modelscope=modelscope)
    if config.tokenizer_path is not None:
        tokenizer = locate(config.tokenizer_path, load_format="dummy", use_modelscope=modelscope)
        config = msgspec.structs.replace(config, tokenizer_path=str(tokenizer))
    model = read_config(path)
    _check(config, model)
    return config, model, path


def _told(apis: list[Child], reason: SglError) -> SglError:
    """`reason`, when the clients have been told its first line; the whole story is the launcher's to tell."""
    deadline = time.monotonic() + _FAIL_S
    for api in apis:
        api.send(encode(Died(reason.message.splitlines()[0])))
    for api in apis:
        api.finish(deadline)
    return reason


def _stop_all(children: list[Child]) -> None:
    with uninterrupted():
        stop(children, seconds=_STOP_S)


def _open(apis: list[Child], ranks: list[Child]) -> list[Ready]:
    """Wait for the replicas, then let the api processes answer requests."""
    children = [*apis, *ranks]
    readies = [rank.wait_ready(children) for rank in ranks]
    for api in apis:
        api.send(encode(Open([ready.capacity for ready in readies if ready.capacity is not None])))
    return [*(api.wait_ready(children) for api in apis), *readies]


def _programs(
    config: ServeConfig,
    model: ModelConfig,
    path: Path,
    folder: Path,
    listener: socket.socket,
    launched_at: float,
) -> Iterator[Program]:
    """The api processes first, then each replica's ranks, the leader before its followers."""
    outboxes = [f"ipc://{folder}/{name}" for name in _api_names(config)]
    inboxes = [f"ipc://{folder}/replica{replica}" for replica in range(config.data_parallel_size)]
    common: dict[str, Any] = {"config": config, "model": model, "path": path, "launched_at": launched_at}
    levels: dict[str, Any] = {"log_level": config.log_level, "http_log_level": config.log_level_http}
    for home, name in enumerate(_api_names(config)):
        api = {"listener": listener, "home": home, "inboxes": outboxes, "replicas": inboxes}
        yield Program(name, "sgl_runtime.http.process:run", {**common, **api}, **levels)
    for replica, inbox in enumerate(inboxes):
        rendezvous = f"tcp://127.0.0.1:{free_port()}" if config.tensor_parallel_size > 1 else None
        for rank in range(config.tensor_parallel_size):
            name = f"replica{replica}" if rank == 0 else f"replica{replica}/rank{rank}"
            place = {
                "replica": replica,
                "rank": rank,
                "rendezvous": rendezvous,
                "leader": f"ipc://{folder}/leader{replica}",
            }
            channels = {"inbox": inbox, "outboxes": outboxes}
            kwargs = {**common, **place, **channels}
            yield Program(name, "sgl_runtime.replica.main:run", kwargs, **levels, drains=False)


def _api_names(config: ServeConfig) -> list[str]:
    return ["api"] if config.http_workers == 1 else [f"api{home}" for home in range(config.http_workers)]


def _check(config: ServeConfig, model: ModelConfig) -> None:
    """What can be known to fail before any process starts. Raises ConfigError."""
    if config.context_length is not None and config.context_length > model.context_length:
        raise ConfigError(
            f"--context-length {config.context_length} is more than the model's {model.context_length}: "
            "positions beyond what it was made for give nonsense"
        )
    share_heads(model.heads, model.kv_heads, 0, config.tensor_parallel_size)


def _check_tracing(config: ServeConfig) -> None:
    """Raises ConfigError where spans are asked for and cannot be sent."""
    if (endpoint := config.otlp_traces_endpoint) is None:
        return
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"--otlp-traces-endpoint {endpoint}: a URL of OTLP over HTTP is expected, such as"
            " http://localhost:4318/v1/traces; gRPC is not spoken"
        )
    try:
        found = all(map(find_spec, ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")))
    except ModuleNotFoundError:
        found = False
    if not found:
        raise ConfigError("--otlp-traces-endpoint needs OpenTelemetry: pip install 'sgl-runtime[otel]'")


def free_port() -> int:
    """A port that nobody listens on now, for ranks to meet at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _breakdown(children: list[Child], readies: list[Ready]) -> str:
    """`api: imports 0.4 s, tokenizer 0.9 s; replica0: …`"""
    parts = []
    for child, ready in zip(children, readies, strict=True):
        phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in ready.seconds.items())
        parts.append(f"{child.name}: {phases}")
    return "; ".join(parts)


def _welcome(
    config: ServeConfig, path: Path, listener: socket.socket, readies: list[Ready], seconds: float
) -> str:
    capacities = [ready.capacity for ready in readies if ready.capacity is not None]
    url = base_url(config, listener)
    place, reach = url, "curl"
    if config.uds is not None:
        place, reach = f"unix:{config.uds}", f"curl --unix-socket {shlex.quote(config.uds)}"
    name = config.served_model_name or config.model_path or path.stem
    body: dict[str, Any] = {"input_ids": [1]} if config.skip_tokenizer_init else {"text": "Once upon a time"}
    route = "encode"
    if capacities[0].answers == "text":
        route = "generate"
        body["sampling_params"] = {"max_new_tokens": 16, "temperature": 0}
    key = ' \\\n  -H "Authorization: Bearer <the --api-key>"' if config.api_key else ""
    for_people = config.uds is None and route == "generate" and not config.skip_tokenizer_init
    invitation = "Open it in a browser, or try it here:" if for_people else "Try it:"
    return (
        f"\nsgl is ready after {seconds:.1f} s: {name} at {place}, {_total(capacities)}. {invitation}\n\n"
        f"{reach} {url}/{route} -H \"Content-Type: application/json\"{key} \\\n  -d '{json.dumps(body)}'\n"
    )


def _total(capacities: list[Capacity]) -> str:
    tokens = sum(capacity.slots for capacity in capacities)
    return f"room for {tokens:,} tokens" + (f" in {len(capacities)} replicas" if len(capacities) > 1 else "")
