# SPDX-License-Identifier: Apache-2.0
"""The api side, assembled: an engine client, the routes, and connections on a socket that is bound.

Knows when to stop and how: refuse what is new, answer what has begun, within a deadline. Knows no route.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hypercorn.config import Config

from sgl_runtime import log
from sgl_runtime.channel import AsyncPull, Push
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig
from sgl_runtime.engine.client import EngineClient, Observer, Receiver, Sender
from sgl_runtime.engine.peers import FromPeer, Peers
from sgl_runtime.engine.prepare import Preparation, tightest
from sgl_runtime.engine.request_log import RequestLog
from sgl_runtime.engine.router import load_router
from sgl_runtime.engine.stream import new_detokenizer
from sgl_runtime.errors import EngineDied, Overloaded, SglError
from sgl_runtime.http.access_log import AccessLog
from sgl_runtime.http.api import Api, name_of
from sgl_runtime.http.app import build_app
from sgl_runtime.http.connection import serve
from sgl_runtime.http.openai.batches.runner import Runner
from sgl_runtime.http.openai.batches.storage import Storage
from sgl_runtime.http.openai.responses.store import ResponseBook
from sgl_runtime.messages import Capacity, FromReplica
from sgl_runtime.spare import QUIET_S, give_back
from sgl_runtime.text.answer.dialect import load_dialect
from sgl_runtime.text.chat import ChatTemplate
from sgl_runtime.text.tokenizer import Tokenizer
from sgl_runtime.tls import tls_context

_logger = log.logger(__name__)
_STREAMS = 1000  # of one HTTP/2 connection at once: a gateway may put all of its clients on one
_CLOSE_S = 1.0  # for finished answers to reach their clients


async def serve_api(
    config: ServeConfig,
    model: ModelConfig,
    tokenizer: Tokenizer | None,
    chat_template: ChatTemplate | None,
    capacities: list[Capacity],
    pushes: list[Push],
    pull: AsyncPull[FromReplica | FromPeer],
    *,
    path: Path,
    peers: Peers | None = None,
    listener: socket.socket,
    on_ready: Callable[[], None],
    stop: asyncio.Event,
    died: asyncio.Future[str] | None = None,
) -> None:
    """Answer HTTP on the bound socket `listener` (owned from now on) until `stop` is set or `died` has a
    result.

    `path` is where the model lies (its stem is the served name if the config gives none), `tokenizer` None
    with skip_tokenizer_init, `capacities` and `pushes` one each per replica. `on_ready` is called once, when
    requests are answered. After `stop` new requests get 503 and those in flight up to config.drain_timeout.
    The result of `died` is a sentence: every request in flight fails with it. Raises what breaks the channel
    from the replicas.
    """
    traces = _traces(config, path)
    api = build_api(
        config,
        model,
        tokenizer,
        chat_template,
        capacities,
        pushes,
        pull,
        path=path,
        peers=peers,
        observers=[] if traces is None else [traces],
    )
    loop = asyncio.get_running_loop()
    closing = asyncio.Event()
    receiving = asyncio.create_task(api.client.run())
    running = asyncio.create_task(Runner(api).run())
    serving = asyncio.create_task(_serve(api, traces, listener, on_ready, closing))
    asked = asyncio.create_task(stop.wait())
    resting = asyncio.create_task(_rest(api.client))
    dead = loop.create_future() if died is None else died
    broken = (receiving, serving, dead)
    loop.set_exception_handler(_report)
    try:
        await asyncio.wait((*broken, running, asked), return_when=asyncio.FIRST_COMPLETED)
        running.cancel()  # what batches have not answered they will at the next start
        await asyncio.wait((running,))
        if not any(sign.done() for sign in broken):
            await _drain(api.client, broken, config.drain_timeout)
            await _write_profile(api, broken)
        if dead.done():
            api.client.fail(EngineDied(dead.result()))
        elif receiving.done():
            api.client.fail(EngineDied("the channel from the engine broke"))
        api.client.peers.leave()
        closing.set()
        await asyncio.wait((serving,), timeout=_CLOSE_S + 1.0)
    finally:
        tasks = (receiving, running, serving, asked, resting)
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await api.storage.close()
        loop.set_exception_handler(None)
        if traces is not None:
            traces.close()
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            raise outcome


def _traces(config: ServeConfig, path: Path) -> Any:
    """http.tracing.Traces, or None: what it needs is an extra, and loaded only where it is wanted."""
    if config.otlp_traces_endpoint is None:
        return None
    tracing = importlib.import_module("sgl_runtime.http.tracing")
    return tracing.otlp_traces(config.otlp_traces_endpoint, name_of(config, path))


async def _rest(client: EngineClient) -> None:
    """Give memory back once whenever all was answered a while ago."""
    seen = given = 0
    while True:
        await asyncio.sleep(QUIET_S)
        answered = client.figures.ended
        if answered == seen != given and not any(client.in_flight):
            give_back()
            given = answered
        seen = answered


async def _drain(client: EngineClient, broken: Sequence[asyncio.Future[Any]], seconds: float) -> None:
    """Let what is in flight end, unless something breaks; after `seconds` cut it short."""
    client.refuse(Overloaded("the server is shutting down"))
    idle = asyncio.create_task(client.idle())
    done, _ = await asyncio.wait((idle, *broken), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    idle.cancel()
    if not done:
        cut = client.abort(reason="the server is shutting down")
        _logger.warning("%d samples had not ended within %.0f s and were cut short", cut, seconds)


async def _write_profile(api: Api, broken: Sequence[asyncio.Future[Any]]) -> None:
    """What `--profile` has recorded, unless something broke or somebody has asked for it already. Of several
    api processes the first one asks.
    """
    if api.config.profile is None or api.client.peers.home or any(sign.done() for sign in broken):
        return
    writing = asyncio.create_task(api.client.profile(api.config.profile))
    done, _ = await asyncio.wait((writing, *broken), return_when=asyncio.FIRST_COMPLETED)
    if writing not in done:
        writing.cancel()
        return
    if isinstance(error := writing.exception(), SglError):
        _logger.warning("the profile was not written: %s", error.message)
        return
    for answer in writing.result():
        _logger.info("%s", answer.error or f"profile in {answer.trace}\n{answer.table}")


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Python 3.11 takes it for an error that connections are cancelled which do not end by themselves."""
    if not isinstance(context.get("exception"), asyncio.CancelledError):
        loop.default_exception_handler(context)


def build_api(
    config: ServeConfig,
    model: ModelConfig,
    tokenizer: Tokenizer | None,
    chat_template: ChatTemplate | None,
    capacities: list[Capacity],
    replicas: Sequence[Sender],
    answers: Receiver,
    *,
    path: Path,
    peers: Peers | None = None,
    observers: Sequence[Observer] = (),
) -> Api:
    """Everything the routes need, over any two ends of a channel."""
    logs = [RequestLog(content=config.log_requests_content)] if config.log_requests else []
    limits = tightest(capacities)
    client = EngineClient(
        replicas,
        answers,
        router=load_router(config.load_balance_method),
        rows=sum(capacity.rows for capacity in capacities),
        detokenizer=None if tokenizer is None else partial(new_detokenizer, tokenizer, model.eos),
        max_queued=config.max_queued_requests,
        stream_interval=config.stream_interval,
        observers=[*logs, *observers],
        peers=peers,
    )
    home = client.peers.home
    preparation = Preparation(tokenizer, limits, seeds=_seeds(config.random_seed, home), home=home)
    dialect = None
    if chat_template is not None and tokenizer is not None:
        dialect = load_dialect(
            chat_template, tokenizer, calls=config.tool_call_parser, reasoning=config.reasoning_parser
        )
    storage = Storage(config.file_storage_path, alone=config.http_workers == 1)
    return Api(
        config,
        model,
        path,
        limits,
        capacities,
        client,
        preparation,
        tokenizer,
        chat_template,
        dialect,
        storage,
        ResponseBook(client.peers),
    )


def _seeds(seed: int | None, home: int) -> random.Random:
    """Of the samples that name none; no two api processes draw the same ones."""
    return random.Random(seed if seed is None or home == 0 else f"{seed} {home}")


async def _serve(
    api: Api, traces: Any, listener: socket.socket, on_ready: Callable[[], None], closing: asyncio.Event
) -> None:
    config = api.config
    settings = Config()
    settings.graceful_timeout = _CLOSE_S
    settings.keep_alive_timeout = config.keep_alive_timeout
    settings.keep_alive_max_requests = sys.maxsize
    settings.h2_max_concurrent_streams = _STREAMS
    settings.errorlog = log.logger("sgl_runtime.http.hypercorn")
    settings.errorlog.setLevel("WARNING")  # where the server listens is said by who opened the socket
    access = log.logger("sgl_runtime.http.access")
    if access.isEnabledFor(logging.INFO):
        settings.accesslog = access
    settings.logger_class = AccessLog
    _tune(listener, config.send_timeout)
    app: Any = build_app(api) if traces is None else traces.around(build_app(api))
    tls = tls_context(config)
    await serve(
        app, settings, listener, tls=tls, patience=config.send_timeout, closing=closing, on_ready=on_ready
    )


def _tune(listener: socket.socket, seconds: float) -> None:
    """Have the kernel send every piece of an answer at once, and end connections whose clients acknowledge
    nothing for so long: our own limit ends their requests; only this ends what is buffered below us.
    """
    if listener.family not in (socket.AF_INET, socket.AF_INET6):
        return
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))
