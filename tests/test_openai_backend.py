# SPDX-License-Identifier: Apache-2.0
"""The OpenAI backend on our own server with the demonstration model, beside RuntimeEndpoint."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import sgl_lang as sgl
from live import ROOT, Server, running
from sgl_lang import Prompt, SamplingParams


@pytest.fixture(scope="module")
def endpoint(demonstration: Server) -> Iterator[sgl.RuntimeEndpoint]:
    with sgl.RuntimeEndpoint(demonstration.url) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In float32: in bfloat16 a score depends on what is cached and who is computed beside it."""
    files = str(tmp_path_factory.mktemp("files"))
    with running("--dtype", "float32", "--file-storage-path", files) as server:
        yield server


def openai(server: Server, **options: Any) -> sgl.OpenAI:
    return sgl.OpenAI("default", base_url=f"{server.url}/v1", api_key="EMPTY", max_retries=0, **options)


@sgl.function
def chat(s: Any) -> None:
    s += sgl.system("You are a helpful assistant.")
    s += sgl.user("What is the capital of France? Answer in one word.")
    s += sgl.assistant(sgl.gen("france", max_tokens=12, temperature=0))
    s += sgl.user("And of Italy?")
    s += sgl.assistant(sgl.gen("italy", max_tokens=8, temperature=0, stop=[".", "\n"]))


def test_a_conversation_is_the_same_over_both_apis(
    demonstration: Server, endpoint: sgl.RuntimeEndpoint
) -> None:
    with openai(demonstration) as backend:
        ours, theirs = chat.run(backend=endpoint), chat.run(backend=backend)
        streamed = chat.run(backend=backend, stream=True)
        assert "".join(streamed.text_iter("france")) == theirs["france"] == ours["france"]
        assert "Paris" in theirs["france"]
        # Of the second turn only the prompts are compared: how much of one is cached may decide a near tie.
        for name in ("france", "italy"):
            told = [state.get_meta_info(name)["prompt_tokens"] for state in (ours, theirs, streamed)]
            assert len(set(told)) == 1
        assert theirs["italy"] and not set(theirs["italy"]) & {".", "\n"}
        both = theirs.usage().prompt_tokens + streamed.usage().prompt_tokens
        assert backend.token_usage.prompt_tokens == both


def test_a_completion_model_continues_text(demonstration: Server, endpoint: sgl.RuntimeEndpoint) -> None:
    @sgl.function
    def facts(s: Any) -> None:
        s += "The capital of France is" + sgl.gen("city", max_tokens=8, temperature=0, stop=[".", ",", "\n"])

    facts.run(backend=endpoint).sync()  # so that both find the prompt cached: see above
    with openai(demonstration, is_chat_model=False) as backend:
        assert facts.run(backend=backend)["city"] == facts.run(backend=endpoint)["city"]


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        ("The capital of France is", [" Paris", " Berlin", " a big city"]),
        ("The capital of France is Par", ["is", "ma", "is, of course"]),
        ("1 + 1 = ", ["2", "3", "11"]),
        ("法国的首都是", ["巴黎", "柏林"]),
    ],
)
def test_options_have_the_same_scores(exact: Server, prompt: str, options: list[str]) -> None:
    with openai(exact, is_chat_model=False) as backend, sgl.RuntimeEndpoint(exact.url) as endpoint:
        theirs = backend.score(Prompt("a", prompt), options)
        ours = endpoint.score(Prompt("b", prompt), options)
        for mine, other in zip(theirs.options, ours.options, strict=True):
            assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-3)
        assert theirs.meta_info["prompt_tokens"] > 0


def test_logprobs_and_samples(demonstration: Server) -> None:
    params = SamplingParams(max_new_tokens=4, temperature=0.0, return_logprob=True, top_logprobs_num=2)
    for chat_model in (True, False):
        prompt = Prompt("a", "The sky is", (sgl.Message("user", "The sky is"), sgl.Message("assistant", "")))
        with openai(demonstration, is_chat_model=chat_model) as backend:
            completion = backend.generate(prompt, params)
            rows = completion.meta_info["output_token_logprobs"]
            assert len(rows) == 4
            assert "".join(text for _, _, text in rows) == completion.text
            assert all(logprob <= 0 for logprob, _, _ in rows)
            several = backend.generate(prompt, SamplingParams(max_new_tokens=4, n=3, seed=1))
            assert len(several.others) == 2


def test_a_schema_is_obeyed(demonstration: Server) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 5}, "large": {"type": "boolean"}},
        "required": ["city"],
    }

    @sgl.function
    def program(s: Any) -> None:
        s += sgl.user("Describe Paris as JSON.")
        s += sgl.assistant(sgl.gen("city", json_schema=schema, max_tokens=40, temperature=0))

    with openai(demonstration) as backend:
        value = json.loads(program.run(backend=backend)["city"])
    jsonschema.validate(value, schema)
    assert set(value) == {"city", "large"}  # optional ones are asked for, too


def test_what_the_server_says_is_said(demonstration: Server) -> None:
    with openai(demonstration) as backend, pytest.raises(sgl.BackendError, match="top_p") as raised:
        chat.run(backend=backend, top_p=2.0)["france"]
    assert raised.value.status == 400


def test_the_example_runs(demonstration: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "compatible_server.py"
    program = (ROOT / "examples" / name).read_text().replace("http://localhost:30000", demonstration.url)
    program = program.replace("max_tokens=48", "max_tokens=12")
    (tmp_path / name).write_text(program + "base.close()\n")
    runpy.run_path(str(tmp_path / name))
    answer, capital = capsys.readouterr().out.rsplit("\n", 2)[:2]
    assert "Paris" in answer
    assert capital == " Paris"
