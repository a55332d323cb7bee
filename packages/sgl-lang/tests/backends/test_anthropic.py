# SPDX-License-Identifier: Apache-2.0
"""Anthropic: turns, images, versions of the API, begun turns, schemas, refusals."""

from __future__ import annotations

import base64
import json

import pytest
from anthropic_wire import KEY, AnthropicWire
from wire import Fault

import sgl_lang as sgl
from sgl_lang import BackendError, Message, ProgramError, Prompt, SamplingParams, UnsupportedByBackend

PNG = b"\x89PNG\r\n\x1a\n....."


def make(wire: AnthropicWire, **options):
    return sgl.Anthropic("claude", base_url=wire.url, api_key=KEY, **{"max_retries": 0, **options})


def prompt(*turns: tuple[str, str]) -> Prompt:
    return Prompt("rid", "", tuple(Message(*turn) for turn in turns))


HI = prompt(("user", "hi"), ("assistant", ""))


def test_the_systems_words_stand_apart_at_the_beginning_only(claude):
    turns = prompt(
        ("system", "Be kind."), ("system", "Be brief."), ("user", "hi"), ("assistant", "Hello."),
        ("user", "so?"), ("system", "Now be long."), ("assistant", ""),
    )  # fmt: skip
    with (
        make(claude, extra_body={"thinking": {"type": "adaptive"}}) as backend,
        pytest.raises(BackendError, match="thinking"),  # this server knows no thinking, and says so
    ):
        backend.generate(turns, SamplingParams())
    body = claude.asked[-1].body
    assert body == {
        "model": "claude",
        "max_tokens": 4096,
        "system": [{"type": "text", "text": "Be kind."}, {"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "Hello."}]},
            {"role": "user", "content": [{"type": "text", "text": "so?"}]},
            {"role": "system", "content": [{"type": "text", "text": "Now be long."}]},
        ],
        "thinking": {"type": "adaptive"},
    }


def test_a_text_without_turns_is_one_of_the_user(claude):
    @sgl.function
    def few_shot(s):
        s += "Q: 1+1?\nA: 2\n\nQ: 2+2?\nA:" + sgl.gen("answer", stop="\n", temperature=0)

    claude.says = " 4\n\nQ: 3+3?"
    with make(claude) as backend:
        assert few_shot.run(backend=backend)["answer"] == " 4"
    (message,) = claude.asked[-1].body["messages"]
    assert message == {"role": "user", "content": [{"type": "text", "text": "Q: 1+1?\nA: 2\n\nQ: 2+2?\nA:"}]}


def test_the_version_of_the_api_is_the_one_that_knows_the_parameters(claude):
    with make(claude) as backend:
        backend.generate(HI, SamplingParams(temperature=1.0, top_p=1.0, top_k=-1, max_new_tokens=3))
        assert claude.asked[-1].headers["anthropic-version"] == "2026-10-21"
        assert set(claude.asked[-1].body) == {"model", "max_tokens", "messages"}
        backend.generate(HI, SamplingParams(temperature=0.0, top_k=5))
        assert claude.asked[-1].headers["anthropic-version"] == "2023-06-01"
        assert (claude.asked[-1].body["temperature"], claude.asked[-1].body["top_k"]) == (0.0, 5)
        claude.samples = False
        with pytest.raises(BackendError, match="`temperature` is deprecated for this model"):
            backend.generate(HI, SamplingParams(temperature=0.0))


@pytest.mark.parametrize("begun", ["The answer is ", "So:\n\n", "Well"])
def test_a_turn_that_has_begun_goes_on(claude, begun):
    blanks = begun[len(begun.rstrip()) :]
    with make(claude) as backend:
        for said in ("forty-two. Yes", blanks + "forty-two. Yes"):
            claude.says = said
            turns = prompt(("user", "hi"), ("assistant", begun))
            assert backend.generate(turns, SamplingParams()).text == "forty-two. Yes"
            *_, streamed = backend.stream(turns, SamplingParams())
            assert streamed.text == "forty-two. Yes"
            assert claude.asked[-1].body["messages"][-1]["content"][0]["text"] == begun.rstrip()
        claude.continues = False
        with pytest.raises(BackendError, match="does not support assistant message prefill"):
            backend.generate(prompt(("user", "hi"), ("assistant", begun)), SamplingParams())


def test_a_turn_that_begins_with_blanks_has_not_begun(claude):
    claude.says = "\n\nfine"
    with make(claude) as backend:
        assert (
            backend.generate(prompt(("user", "hi"), ("assistant", "\n")), SamplingParams()).text == "\nfine"
        )
    assert len(claude.asked[-1].body["messages"]) == 1


def test_images(claude, tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)

    @sgl.function
    def look(s):
        s += sgl.user(
            sgl.image(PNG) + "or" + sgl.image(str(tmp_path / "cat.png")) + sgl.image("https://x.org/y.jpg")
        )
        s += sgl.assistant(sgl.gen("answer"))

    with make(claude) as backend:
        assert look.run(backend=backend)["answer"]
    first, word, second, third = claude.asked[-1].body["messages"][0]["content"]
    data = base64.b64encode(PNG).decode()
    assert first == second == {
        "type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data},
    }  # fmt: skip
    assert word == {"type": "text", "text": "or"}
    assert third == {"type": "image", "source": {"type": "url", "url": "https://x.org/y.jpg"}}


def test_a_schema_is_closed(claude):
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
        "required": ["a"],
    }
    with make(claude, extra_body={"output_config": {"effort": "low"}}) as backend:
        backend.generate(HI, SamplingParams(json_schema=json.dumps(schema)))
    assert claude.asked[-1].body["output_config"] == {
        "effort": "low",
        "format": {"type": "json_schema", "schema": {**schema, "additionalProperties": False}},
    }


def test_why_it_stopped(claude):
    with make(claude) as backend:
        told = backend.generate(HI, SamplingParams(stop=("And",))).meta_info["finish_reason"]
        assert told == {"type": "stop", "matched": "And"}
        claude.ends = "pause_turn"
        assert backend.generate(HI, SamplingParams()).meta_info["finish_reason"] == {"type": "pause_turn"}
        claude.ends = "refusal"
        claude.says = ""
        for ask in (backend.generate, lambda *args: list(backend.stream(*args))):
            with pytest.raises(BackendError, match="refused: the model declined"):
                ask(HI, SamplingParams())


def test_an_error_in_a_stream_has_its_own_status(claude):
    claude.faults += [Fault(529, "Overloaded", after=2), Fault(400, "no", after=1)]
    with make(claude, max_retries=3) as backend:
        for status in (529, 500):  # a stream cannot fail for the request's sake: it had begun
            with pytest.raises(BackendError) as raised:
                list(backend.stream(HI, SamplingParams()))
            assert raised.value.status == status
    assert len(claude.asked) == 2


@pytest.mark.parametrize(
    "asked",
    [
        {"regex": "a+"},
        {"seed": 1},
        {"n": 2},
        {"return_logprob": True},
        {"dtype": int},
        {"top_p": 0.5, "min_p": 0.1},
    ],
)
def test_what_claude_cannot_do_is_refused_before_any_request(claude, asked):
    @sgl.function
    def program(s):
        s += sgl.user("hi")
        s += sgl.assistant(sgl.gen("a", **asked))

    with make(claude) as backend, pytest.raises(UnsupportedByBackend, match="|".join(asked)):
        program.run(backend=backend).text()
    assert claude.asked == []


def test_a_key_is_needed(monkeypatch):
    for name in ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProgramError, match="ANTHROPIC_API_KEY"):
        sgl.Anthropic("claude")
    with pytest.raises(ProgramError, match="no_such_option"):
        sgl.Anthropic("claude", api_key=KEY, no_such_option=1)
