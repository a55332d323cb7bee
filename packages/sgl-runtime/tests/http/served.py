# SPDX-License-Identifier: Apache-2.0
"""The whole api process over a scripted engine: through ASGI without sockets, or on a real one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
from scripted import CAPACITY, EOS, Script, byte_tokenizer

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.checkpoint.rope import Rope
from sgl_runtime.config import ServeConfig
from sgl_runtime.engine.peers import Peers
from sgl_runtime.http.api import Api
from sgl_runtime.http.app import build_app
from sgl_runtime.http.server import build_api, serve_api
from sgl_runtime.messages import Capacity
from sgl_runtime.replica.outboxes import Outboxes
from sgl_runtime.text.chat import load_chat_template
from sgl_runtime.text.tokenizer import Tokenizer

ROPE = Rope(theta=10000.0, scaling=None, rotary_dim=16)
MODEL = ModelConfig(
    architecture="LlamaForCausalLM",
    model_type="llama",
    hidden_size=64,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=16,
    intermediate_size=128,
    vocab_size=260,
    context_length=512,
    norm_eps=1e-5,
    rope=ROPE,
    local_rope=ROPE,
    sliding_window=None,
    layer_types=None,
    tie_embeddings=True,
    hidden_act="silu",
    attention_bias=False,
    mlp_bias=False,
    dtype="float32",
    bos=257,
    eos=(EOS,),
    raw={},
)
PATH = Path("models/tiny.gguf")
EMBEDDINGS = msgspec.structs.replace(CAPACITY, answers="embeddings")
SCORES = msgspec.structs.replace(CAPACITY, answers="scores")
ROOMY = Capacity(slots=65536, rows=8, context_length=8192, vocab_size=260)
# Writes tools, calls and results, and thinks if it is told to.
TOOL_TEMPLATE = (
    "{% if tools %}<|tools|>{{ tools | tojson }}<|end|>\n{% endif %}"
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}"
    "{{ message['content'] }}{% for call in message.tool_calls or [] %}"
    '<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "</tool_call>{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% if thinks %}<think>{% endif %}{% endif %}"
)


class Served:
    """A running api process and a client of it."""

    def __init__(self, api: Api, script: Script, http: httpx.AsyncClient) -> None:
        self.api = api
        self.script = script
        self.http = http

    async def post(self, path: str, body: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.http.post(path, content=content)

    async def answer(self, path: str, body: Any) -> Any:
        """The JSON of a request that must succeed."""
        response = await self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    async def events(self, path: str, body: Any) -> list[Any]:
        """The events of a stream that must succeed and end as it should."""
        response = await self.post(path, body)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return parse_events(response.text)


def parse_events(text: str) -> list[Any]:
    *events, last, nothing = text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def settle() -> None:
    """Let everything that has been said be heard and acted upon."""
    for _ in range(100):
        await asyncio.sleep(0)


@asynccontextmanager
async def served(
    script: Script | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    capacity: Capacity = CAPACITY,
    raw: dict[str, Any] | None = None,
    bos: int | None = MODEL.bos,
    traces: Any = None,
    **config: Any,
) -> AsyncIterator[Served]:
    """Without sockets. `raw`: the model's config.json; `bos` is in it; `traces`: an http.tracing.Traces;
    `config`: fields of ServeConfig.
    """
    script = script or Script()
    settings = ServeConfig(**config)
    if not settings.skip_tokenizer_init:
        tokenizer = tokenizer or byte_tokenizer()
    template = None if tokenizer is None else load_chat_template(settings.chat_template, tokenizer)
    capacities = [capacity for _ in script.senders]
    model = msgspec.structs.replace(MODEL, raw=raw or {}, bos=bos)
    observers = [] if traces is None else [traces]
    api = build_api(
        settings,
        model,
        tokenizer,
        template,
        capacities,
        script.senders,
        script,
        path=PATH,
        observers=observers,
    )
    app = build_app(api) if traces is None else traces.around(build_app(api))
    receiving = asyncio.create_task(api.client.run())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            yield Served(api, script, http)
    finally:
        receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await receiving


class Listening:
    """A server on a real socket; `ending` is its task."""

    def __init__(
        self, port: int, stop: asyncio.Event, died: asyncio.Future[str], ending: asyncio.Task[None]
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.stop = stop
        self.died = died
        self.ending = ending


class Mailbox:
    """The inbox of one of several api processes."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[Any] = asyncio.Queue()

    def send(self, message: Any) -> None:
        self._messages.put_nowait(message)

    put_nowait = send

    async def receive(self) -> Any:
        return await self._messages.get()


@asynccontextmanager
async def workers(
    script: Script, count: int = 2, *, capacity: Capacity = CAPACITY, **config: Any
) -> AsyncIterator[list[Served]]:
    """Several api processes, without sockets, over the replicas of one script."""
    mailboxes = [Mailbox() for _ in range(count)]
    outboxes = Outboxes(mailboxes)
    script._outbox.put_nowait = outboxes.send  # type: ignore[method-assign, assignment]
    settings, tokenizer = ServeConfig(http_workers=count, **config), byte_tokenizer()
    capacities = [capacity for _ in script.senders]
    async with contextlib.AsyncExitStack() as stack:
        servers = []
        for home, mailbox in enumerate(mailboxes):
            api = build_api(
                settings,
                MODEL,
                tokenizer,
                load_chat_template(None, tokenizer),
                capacities,
                script.senders,
                mailbox,
                path=PATH,
                peers=Peers(home, mailboxes),
            )
            stack.callback(asyncio.create_task(api.client.run()).cancel)
            transport = httpx.ASGITransport(build_app(api), raise_app_exceptions=False)
            http = await stack.enter_async_context(
                httpx.AsyncClient(transport=transport, base_url="http://localhost")
            )
            servers.append(Served(api, script, http))
        yield servers


@asynccontextmanager
async def listening(
    script: Script,
    *,
    drain_seconds: float = 5.0,
    tokenizer: Tokenizer | None = None,
    capacity: Capacity = CAPACITY,
    uds: Path | None = None,
    peers: Peers | None = None,
    **config: Any,
) -> AsyncIterator[Listening]:
    """On a free port of the loopback interface, or a Unix socket; stopped, if it still runs, on leaving."""
    if uds is None:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    else:
        listener, port = socket.socket(socket.AF_UNIX), 0
        listener.bind(str(uds))
    ready, stop = asyncio.Event(), asyncio.Event()
    died: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    tokenizer = tokenizer or byte_tokenizer()
    server = serve_api(
        ServeConfig(**{"drain_timeout": drain_seconds, **config}),
        MODEL,
        tokenizer,
        load_chat_template(None, tokenizer),
        [capacity for _ in script.senders],
        script.senders,  # type: ignore[arg-type]
        script,  # type: ignore[arg-type]
        path=PATH,
        peers=peers,
        listener=listener,
        on_ready=ready.set,
        stop=stop,
        died=died,
    )
    ending = asyncio.create_task(server)
    try:
        await ready.wait()
        yield Listening(port, stop, died, ending)
    finally:
        stop.set()
        await asyncio.wait((ending,))
