# SPDX-License-Identifier: Apache-2.0
"""The examples on vendors run as they stand; the environment says where the vendors are."""

from __future__ import annotations

import runpy
from pathlib import Path

import openai_wire
import pytest
from anthropic_wire import KEY as ANTHROPIC_KEY
from gemini_wire import KEY as GOOGLE_KEY
from openai_wire import KEY as OPENAI_KEY

from sgl_lang.default import _default

EXAMPLES = Path(__file__).parents[4] / "examples"
MEMBERS = "assistant : Fine, thanks. And you?\nFine, thanks. And you?\n"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example in an environment; what it printed."""
    monkeypatch.setattr(_default, "backend", None)
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "GEMINI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(name: str, **environment: str) -> str:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        variables = runpy.run_path(str(EXAMPLES / name))
        backend = _default.backend or variables["backend"]
        backend.close()
        return capsys.readouterr().out

    return run


def test_openai_chat(run, openai):
    printed = run("openai_chat.py", OPENAI_API_KEY=OPENAI_KEY, OPENAI_BASE_URL=f"{openai.url}/v1")
    assert printed.endswith(MEMBERS)
    assert [message["role"] for message in openai.asked[1].body["messages"]] == [
        "system",
        "user",
        "assistant",
        "user",
    ]


def test_openai_complete(run, openai, monkeypatch):
    """But for the tokenizer, which would be downloaded."""
    monkeypatch.setattr("sgl_lang.backends.openai.tokenizer_of", lambda model: openai_wire.bytewise())
    openai.says = " Washington\nQ: and so on"
    openai.prefers = lambda text, allowed: ord("y")
    printed = run("openai_complete.py", OPENAI_API_KEY=OPENAI_KEY, OPENAI_BASE_URL=f"{openai.url}/v1")
    assert printed == " Washington yes\n"


def test_azure(run, openai):
    printed = run("azure_openai.py", AZURE_OPENAI_API_KEY=OPENAI_KEY, AZURE_OPENAI_ENDPOINT=openai.url)
    assert printed == "Fine, thanks. And you?\n"


def test_anthropic(run, claude):
    printed = run("anthropic_chat.py", ANTHROPIC_API_KEY=ANTHROPIC_KEY, ANTHROPIC_BASE_URL=claude.url)
    assert printed.endswith(MEMBERS)


def test_vertex(run, gemini):
    printed = run("vertex_chat.py", GOOGLE_API_KEY=GOOGLE_KEY, GOOGLE_VERTEX_BASE_URL=gemini.url)
    assert printed.endswith(MEMBERS)
