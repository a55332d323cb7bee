# SPDX-License-Identifier: Apache-2.0
"""How a server is asked and what its events mean: /generate, OpenAI's completions, OpenAI's chat.

A protocol turns a `Request` into a body, and an answer or an event of a stream into `News`. Knows no sockets.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sgl_runtime.bench.requests import Request
from sgl_runtime.errors import ConfigError


@dataclass(frozen=True)
class News:
    """What an event says. Counts are of the whole request so far; None: it does not say."""

    text: str = ""
    cumulative: bool = False  # `text` is all so far, not what is new
    produced: bool = False  # there is at least one new token
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None


class Api(Protocol):
    """One protocol."""

    path: str
    takes_ids: bool  # as prompts

    def body(self, request: Request, model: str, *, stream: bool) -> dict[str, Any]: ...

    def news(self, event: Mapping[str, Any]) -> News: ...


class Native:
    """`POST /generate`, of this server and of SGLang. `seed`: what it calls the field."""

    path = "/generate"
    takes_ids = True

    def __init__(self, seed: str = "seed") -> None:
        self._seed = seed

    def body(self, request: Request, model: str, *, stream: bool) -> dict[str, Any]:
        sampling: dict[str, Any] = {
            "max_new_tokens": request.output_len,
            "temperature": request.temperature,
            "ignore_eos": request.ignore_eos,
        }
        if request.seed is not None:
            sampling[self._seed] = request.seed
        if request.schema is not None:
            sampling["json_schema"] = json.dumps(request.schema)
        name = "text" if isinstance(request.prompt, str) else "input_ids"
        return {name: request.prompt, "sampling_params": sampling, "stream": stream}

    def news(self, event: Mapping[str, Any]) -> News:
        about = event["meta_info"]
        tokens = about.get("completion_tokens")
        return News(
            text=event.get("text", ""),
            cumulative=True,
            produced=bool(tokens),
            prompt_tokens=about.get("prompt_tokens"),
            output_tokens=tokens,
            cached_tokens=about.get("cached_tokens"),
        )


class Completions:
    """`POST /v1/completions`."""

    path = "/v1/completions"
    takes_ids = True

    def body(self, request: Request, model: str, *, stream: bool) -> dict[str, Any]:
        return {"model": model, "prompt": request.prompt, **_common(request, stream=stream)}

    def news(self, event: Mapping[str, Any]) -> News:
        choices: Sequence[Any] = event.get("choices") or []
        text = (choices[0].get("text") or "") if choices else ""
        # A token may not have made a character yet; the end of the stream may come without a token.
        produced = bool(choices) and (bool(text) or choices[0].get("finish_reason") is None)
        return _openai(event, text, produced=produced)


class Chat:
    """`POST /v1/chat/completions`."""

    path = "/v1/chat/completions"
    takes_ids = False

    def body(self, request: Request, model: str, *, stream: bool) -> dict[str, Any]:
        messages = [{"role": "user", "content": request.prompt}]
        return {"model": model, "messages": messages, **_common(request, stream=stream)}

    def news(self, event: Mapping[str, Any]) -> News:
        choices: Sequence[Any] = event.get("choices") or []
        said = (choices[0].get("delta") or choices[0].get("message") or {}) if choices else {}
        # The first event of a stream names the role and carries no token.
        text = (said.get("reasoning_content") or "") + (said.get("content") or "")
        return _openai(event, text, produced=bool(text))


def _common(request: Request, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "max_tokens": request.output_len,
        "temperature": request.temperature,
        "stream": stream,
    }
    if stream:
        body["stream_options"] = {"include_usage": True}
    if request.ignore_eos:
        body["ignore_eos"] = True
    if request.seed is not None:
        body["seed"] = request.seed
    if request.schema is not None:
        form = {"name": "answer", "schema": request.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    return body


def _openai(event: Mapping[str, Any], text: str, *, produced: bool) -> News:
    usage = event.get("usage") or {}
    return News(
        text=text,
        produced=produced,
        prompt_tokens=usage.get("prompt_tokens"),
        output_tokens=usage.get("completion_tokens"),
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
    )


# backend -> how it is asked, and where it listens by default
_SPOKEN: Mapping[str, tuple[Api, int]] = MappingProxyType(
    {
        "sgl": (Native(), 30000),
        "sglang": (Native("sampling_seed"), 30000),
        "sglang-oai": (Completions(), 30000),
        "sglang-oai-chat": (Chat(), 30000),
        "openai": (Completions(), 30000),
        "openai-chat": (Chat(), 30000),
        "vllm": (Completions(), 8000),
        "vllm-chat": (Chat(), 8000),
        "lmdeploy": (Completions(), 23333),
    }
)
_OTHERS: Mapping[str, str] = MappingProxyType(
    {
        "trt": "Triton's generate_stream; start the model with trtllm-serve",
        "tgi": "TGI's generate_stream; its Messages API serves OpenAI's chat",
        "triton": "Triton's generate_stream; start its OpenAI-compatible frontend",
        "lightllm": "LightLLM's own; start it with its OpenAI-compatible routes",
        "gserver": "gRPC",
        "mii": "DeepSpeed-MII's own; start its OpenAI-compatible server",
        "ollama": "Ollama's own; it serves OpenAI's under /v1 as well",
    }
)


def protocol(backend: str) -> tuple[Api, int]:
    """How `backend` is asked, and its usual port. Raises ConfigError for those with other protocols."""
    if backend in _OTHERS:
        raise ConfigError(
            f"--backend {backend} speaks {_OTHERS[backend]}, "
            "and measure that with --backend openai or openai-chat",
            param="backend",
        )
    return _SPOKEN[backend]
