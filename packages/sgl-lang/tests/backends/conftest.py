# SPDX-License-Identifier: Apache-2.0
"""Every vendor's backend beside a server that speaks its API, as one fixture."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic_wire
import gemini_wire
import openai_wire
import pytest
from google.oauth2.credentials import Credentials
from wire import Wire, serving

import sgl_lang as sgl
from sgl_lang import Backend
from sgl_lang.backends import _failure


@dataclass
class Vendor:
    """One vendor: its server, what makes a backend on it, and the key that may appear nowhere."""

    name: str
    wire: Wire
    key: str
    make: Callable[..., Any]


def _openai(wire: Wire) -> Callable[..., Any]:
    return lambda **options: sgl.OpenAI("gpt-4o", **_at(wire.url + "/v1", openai_wire.KEY, options))


def _openai_text(wire: Wire) -> Callable[..., Any]:
    model = "gpt-3.5-turbo-instruct"
    return lambda **options: sgl.OpenAI(model, **_at(wire.url + "/v1", openai_wire.KEY, options))


def _azure(wire: Wire) -> Callable[..., Any]:
    where = {"is_azure": True, "azure_endpoint": wire.url, "api_version": "2025-01-01-preview"}
    return lambda **options: sgl.OpenAI("a-deployment", **{"api_key": openai_wire.KEY, **where, **options})


def _anthropic(wire: Wire) -> Callable[..., Any]:
    return lambda **options: sgl.Anthropic("claude", **_at(wire.url, anthropic_wire.KEY, options))


def _vertex(wire: Wire) -> Callable[..., Any]:
    where = {"project": "a-project", "location": "a-place", "base_url": wire.url}

    def make(api_key: str = gemini_wire.TOKEN, **options: Any) -> Any:
        return sgl.VertexAI("gemini", credentials=Credentials(token=api_key), **{**where, **options})

    return make


def _gemini(wire: Wire) -> Callable[..., Any]:
    return lambda **options: sgl.VertexAI("gemini", vertexai=False, **_at(wire.url, gemini_wire.KEY, options))


def _litellm(wire: Wire) -> Callable[..., Any]:
    return lambda **options: sgl.LiteLLM("openai/gpt-4o", **_at(wire.url + "/v1", openai_wire.KEY, options))


def _at(url: str, key: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"base_url": url, "api_key": key, **options}


_VENDORS: dict[str, tuple[type[Wire], str, Callable[[Wire], Callable[..., Any]]]] = {
    "openai": (openai_wire.OpenAIWire, openai_wire.KEY, _openai),
    "openai-text": (openai_wire.OpenAIWire, openai_wire.KEY, _openai_text),
    "azure": (openai_wire.OpenAIWire, openai_wire.KEY, _azure),
    "anthropic": (anthropic_wire.AnthropicWire, anthropic_wire.KEY, _anthropic),
    "vertex": (gemini_wire.GeminiWire, gemini_wire.TOKEN, _vertex),
    "gemini": (gemini_wire.GeminiWire, gemini_wire.KEY, _gemini),
    "litellm": (openai_wire.OpenAIWire, openai_wire.KEY, _litellm),
}


_LITELLM = (
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None,
        reason="litellm is not installed: uv sync --group litellm",
    ),
    pytest.mark.filterwarnings("ignore"),  # its own affair
)


@pytest.fixture(params=[pytest.param(name, marks=_LITELLM if name == "litellm" else ()) for name in _VENDORS])
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    """Each vendor in turn."""
    kind, key, make = _VENDORS[request.param]
    with serving(kind()) as wire:
        yield Vendor(request.param, wire, key, make(wire))


@pytest.fixture
def backend(vendor: Vendor) -> Iterator[Backend]:
    with vendor.make() as backend:
        yield backend


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are a hundredth of what they are."""
    monkeypatch.setattr(_failure, "_FIRST_S", _failure._FIRST_S / 100)


@pytest.fixture
def openai() -> Iterator[openai_wire.OpenAIWire]:
    with serving(openai_wire.OpenAIWire()) as wire:
        yield wire


@pytest.fixture
def claude() -> Iterator[anthropic_wire.AnthropicWire]:
    with serving(anthropic_wire.AnthropicWire()) as wire:
        yield wire


@pytest.fixture
def gemini() -> Iterator[gemini_wire.GeminiWire]:
    with serving(gemini_wire.GeminiWire()) as wire:
        yield wire
