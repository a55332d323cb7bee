# SPDX-License-Identifier: Apache-2.0
"""LiteLLM: its parameters, and a provider behind it whose format is not OpenAI's. Where it is installed."""

from __future__ import annotations

import importlib
import inspect

import anthropic_wire
import openai_wire
import pytest

import sgl_lang as sgl
from sgl_lang import Message, Prompt, SamplingParams, UnsupportedByBackend

pytest.importorskip("litellm", reason="uv sync --group litellm")
pytestmark = pytest.mark.filterwarnings("ignore")  # its own affair
HI = Prompt("rid", "", (Message("system", "Be kind."), Message("user", "hi"), Message("assistant", "")))


def test_parameters(openai):
    with sgl.LiteLLM(
        "openai/gpt-4o",
        base_url=f"{openai.url}/v1",
        api_key=openai_wire.KEY,
        organization="an-org",
        default_headers={"x-mine": "1"},
    ) as backend:
        backend.generate(HI, SamplingParams(max_new_tokens=9, temperature=0.5, seed=3, stop=("x",)))
    asked = openai.asked[-1]
    assert asked.body == {
        "model": "gpt-4o",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["x"],
    }
    assert asked.headers["x-mine"] == "1"


def test_another_provider(claude):
    claude.says = "one\ntwo"
    with sgl.LiteLLM(
        "anthropic/claude-sonnet-4-5", base_url=claude.url, api_key=anthropic_wire.KEY
    ) as backend:
        assert backend.generate(HI, SamplingParams(max_new_tokens=9)).text == "one\ntwo"
        assert backend.generate(HI, SamplingParams(max_new_tokens=9, stop=("\n",))).text == "one"
        *_, last = backend.stream(HI, SamplingParams(max_new_tokens=9))
        assert last.text == "one\ntwo"
        assert backend.token_usage.prompt_tokens > 0


def test_what_it_cannot_do_is_refused_before_any_request(openai):
    @sgl.function
    def program(s):
        s += sgl.user("hi")
        s += sgl.assistant(sgl.gen("a", regex="a+"))

    with (
        sgl.LiteLLM("openai/gpt-4o", base_url=f"{openai.url}/v1", api_key="x" * 9) as backend,
        pytest.raises(UnsupportedByBackend, match="json_schema"),
    ):
        program.run(backend=backend).text()
    assert openai.asked == []


def test_the_public_name_is_documented():
    assert inspect.getdoc(sgl.LiteLLM)
    assert importlib.import_module("sgl_lang.backends.litellm").LiteLLM is sgl.LiteLLM
