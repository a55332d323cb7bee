# SPDX-License-Identifier: Apache-2.0
"""`Client`: sends one request and keeps the times of what comes back. The only module that imports aiohttp.

aiohttp, since a thousand streams at once must not wait for their client: it takes 28 us of CPU for an event
where httpx takes 390 (docs/performance.md). What a failure is: an `Outcome` with `error`, never an exception.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import msgspec

from sgl_runtime.bench.protocols import Api, News
from sgl_runtime.bench.requests import Request
from sgl_runtime.errors import ConfigError

_LINE = 8 << 20  # bytes of the longest event: an answer so far, with its log-probabilities
_ERROR_TEXT = 300
_ASK_S = 60.0  # for a server to say what it is
_DATA, _DONE = b"data:", b"[DONE]"
_JSON = msgspec.json.Decoder()


@dataclass
class Outcome:
    """What became of one request. Times are `time.perf_counter` seconds."""

    asked: int  # tokens
    start: float = 0.0
    end: float = 0.0
    stamps: list[float] = field(default_factory=list)  # of every event with new tokens; [] if not streamed
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    text: str = ""
    error: str = ""


def check_client() -> None:
    """Raises ConfigError if aiohttp is not installed."""
    if find_spec("aiohttp") is None:
        raise ConfigError("bench serving needs aiohttp: pip install 'sgl-runtime[bench]'")


class Client:
    """Of one server; made by `connect`."""

    def __init__(
        self, session: Any, base_url: str, api: Api, model: str, *, extra: Mapping[str, Any], stream: bool
    ) -> None:
        """`extra` is laid over every body; `stream`: whether streams may be asked for."""
        self._aiohttp = importlib.import_module("aiohttp")
        self._session = session
        self._url = base_url + api.path
        self._api = api
        self._model = model
        self._extra = extra
        self._stream = stream

    async def send(self, request: Request, *, stream: bool) -> Outcome:
        """Ask and read to the end. The clock starts when the body is ready, before a connection is made."""
        stream = stream and self._stream
        body = merge(self._api.body(request, self._model, stream=stream), self._extra)
        data = msgspec.json.encode(body)
        outcome = Outcome(request.output_len)
        outcome.start = time.perf_counter()
        try:
            async with self._session.post(self._url, data=data) as response:
                if response.status != 200:
                    text = (await response.text(errors="replace"))[:_ERROR_TEXT]
                    outcome.error = f"status {response.status}: {text}"
                elif stream:
                    await self._read_stream(response, outcome)
                else:
                    _take(outcome, self._news(await response.read()))
        except (self._aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            # ValueError: not JSON, JSON of some other protocol, or a line without end.
            outcome.error = f"{type(error).__name__}: {error}"[:_ERROR_TEXT]
        outcome.end = time.perf_counter()
        if not outcome.error and stream and not outcome.stamps:
            outcome.error = "the stream had no token"
        return outcome

    async def _read_stream(self, response: Any, outcome: Outcome) -> None:
        done = False
        async for line in response.content:
            if not line.startswith(_DATA):
                continue
            data = line[len(_DATA) :].strip()
            if data == _DONE:
                done = True
                continue
            now = time.perf_counter()
            news = self._news(data)
            if news.produced and (not news.cumulative or news.output_tokens != outcome.output_tokens):
                outcome.stamps.append(now)
            _take(outcome, news)
        if not done:
            outcome.error = "the stream ended without [DONE]"

    def _news(self, data: bytes) -> News:
        """What an answer or an event says. Raises ValueError if that is an error, or nothing of this
        protocol."""
        event = _JSON.decode(data)
        try:
            if (told := event.get("error")) is not None:
                raise ValueError(f"the server says {told}")
            news = self._api.news(event)
        except (TypeError, AttributeError, LookupError):
            raise ValueError(f"this is no answer of {self._api.path}: {data!r}") from None
        text: Any = news.text
        counts: list[Any] = [news.prompt_tokens, news.output_tokens, news.cached_tokens]
        whole = all(count is None or (type(count) is int and count >= 0) for count in counts)
        if not isinstance(text, str) or not whole:
            raise ValueError(f"this is no answer of {self._api.path}: {data!r}")
        return news


@asynccontextmanager
async def connect(api_key: str | None, timeout: float, uds: str | None = None) -> AsyncIterator[Any]:
    """A session without a limit on connections; each request has one of its own, as from a client of its own.

    timeout: seconds for one request; uds: the Unix socket that all of them go through. Raises ConfigError for
    a key that no header can carry.
    """
    if api_key is not None and not api_key.isprintable():
        raise ConfigError("--api-key, or OPENAI_API_KEY, has a line break or the like in it: leave that out")
    aiohttp = importlib.import_module("aiohttp")
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    if uds is None:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
    else:
        connector = aiohttp.UnixConnector(uds, limit=0, force_close=True)
    limits = aiohttp.ClientTimeout(total=timeout)
    async with aiohttp.ClientSession(
        connector=connector, timeout=limits, headers=headers, read_bufsize=_LINE
    ) as session:
        yield session


async def fetch(session: Any, url: str) -> Any:
    """The JSON of a GET, or None where there is no such page. Raises ConfigError if nobody answers."""
    aiohttp = importlib.import_module("aiohttp")
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=_ASK_S)) as response:
            if response.status in (401, 403):
                raise ConfigError(f"{url} asks for a key (status {response.status}): use --api-key")
            return _JSON.decode(await response.read()) if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        why = str(error) or type(error).__name__
        raise ConfigError(
            f"no server answers at {url} ({why}); is it up, and is --base-url or --uds right?"
        ) from None
    except msgspec.DecodeError:
        return None


def merge(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` over `body`; objects in both are merged in turn."""
    merged = dict(body)
    for name, value in extra.items():
        below = merged.get(name)
        merged[name] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _take(outcome: Outcome, news: News) -> None:
    outcome.text = news.text if news.cumulative else outcome.text + news.text
    for name in ("prompt_tokens", "output_tokens", "cached_tokens"):
        if (value := getattr(news, name)) is not None:
            setattr(outcome, name, value)
