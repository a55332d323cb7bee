# SPDX-License-Identifier: Apache-2.0
"""Entry point of the api process: load the tokenizer while the replicas load weights, then answer HTTP.

Knows how the parts of this side are put together; what they do is theirs. No torch.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import socket
import time
from pathlib import Path

from sgl_runtime import log
from sgl_runtime.channel import AsyncPull, Push
from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig
from sgl_runtime.engine.peers import FromPeer, Peers
from sgl_runtime.errors import ConfigError, EngineDied
from sgl_runtime.http.server import serve_api
from sgl_runtime.messages import Died, FromReplica, Open, Ready, ToApi, decoder
from sgl_runtime.process import ChildPipe
from sgl_runtime.text.chat import ChatTemplate, load_chat_template
from sgl_runtime.text.tokenizer import Tokenizer, disagreements, load_tokenizer

_TO_API = decoder(ToApi)
_logger = log.logger(__name__)
_CONNECTIONS = 65_536  # at once, if the system grants as many
# What tokenizers tend to rewrite: spaces before punctuation and after apostrophes, runs of white space.
_SAMPLES = (
    "Hello , world ! Isn 't it ?",
    " a  b\n\n\tc ",
    "x = [1, 2] ; y = 'z'",
    "你好,世界。从前有一个",
    "naïve 🙂 café",
)


def run(
    pipe: ChildPipe,
    *,
    config: ServeConfig,
    model: ModelConfig,
    path: Path,
    listener: socket.socket,
    home: int,
    inboxes: list[str],
    replicas: list[str],
    launched_at: float,
) -> None:
    """Answer HTTP on `listener` until SIGTERM or the launcher's `Died`.

    `home` is the number of this api process, `inboxes` where the replicas send to, one for each api process,
    `replicas` their own inboxes, `launched_at` the launcher's time.monotonic().
    """
    _allow_connections()
    seconds = {"python": time.monotonic() - launched_at}
    start = time.monotonic()
    tokenizer = None if config.skip_tokenizer_init else load_tokenizer(Path(config.tokenizer_path or path))
    template = None if tokenizer is None else load_chat_template(config.chat_template, tokenizer)
    for flag, given in (("tool-call", config.tool_call_parser), ("reasoning", config.reasoning_parser)):
        if template is None and given not in (None, "none"):
            raise ConfigError(f"--{flag}-parser: the model brings no chat template; give --chat-template too")
    if tokenizer is not None and (odd := disagreements(tokenizer, _SAMPLES)):
        _logger.warning(
            "this tokenizer rewrites text while decoding, which answers do not: %r, not %r", *odd[0]
        )
    seconds["tokenizer"] = time.monotonic() - start
    message = _TO_API.decode(pipe.receive())
    if isinstance(message, Died):
        raise EngineDied(message.reason)
    asyncio.run(
        _answer(
            pipe,
            message,
            config,
            model,
            path,
            tokenizer,
            template,
            listener,
            home,
            inboxes,
            replicas,
            seconds,
        )
    )


def _allow_connections() -> None:
    """Each is an open file, of which many systems grant 1,024 until asked: beyond them nobody is let in."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _CONNECTIONS if most == resource.RLIM_INFINITY else min(most, _CONNECTIONS)
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), most))


async def _answer(
    pipe: ChildPipe,
    opened: Open,
    config: ServeConfig,
    model: ModelConfig,
    path: Path,
    tokenizer: Tokenizer | None,
    template: ChatTemplate | None,
    listener: socket.socket,
    home: int,
    inboxes: list[str],
    replicas: list[str],
    seconds: dict[str, float],
) -> None:
    gc.set_threshold(20_000)  # five hundred requests that begin at once are no garbage
    gc.freeze()  # a vocabulary is not to be looked through again and again
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    died: asyncio.Future[str] = loop.create_future()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_reader(pipe.connection, _hear, pipe, loop, stop, died)
    pull: AsyncPull[FromReplica | FromPeer] = AsyncPull(inboxes[home], FromReplica | FromPeer)
    await serve_api(
        config,
        model,
        tokenizer,
        template,
        opened.capacities,
        [Push(address) for address in replicas],
        pull,
        path=path,
        peers=Peers(home, [Push(inbox) for inbox in inboxes]),
        listener=listener,
        on_ready=lambda: pipe.ready(Ready(seconds=seconds)),
        stop=stop,
        died=died,
    )


def _hear(
    pipe: ChildPipe, loop: asyncio.AbstractEventLoop, stop: asyncio.Event, died: asyncio.Future[str]
) -> None:
    """The launcher spoke, or is gone."""
    try:
        message = _TO_API.decode(pipe.receive())
    except (EOFError, OSError):
        loop.remove_reader(pipe.connection)
        stop.set()
        return
    if isinstance(message, Died) and not died.done():
        died.set_result(message.reason)
