# SPDX-License-Identifier: Apache-2.0
"""VertexAI: turns, images, settings, log-probabilities, blocked prompts, and what is refused."""

from __future__ import annotations

import base64
import json

import pytest
from gemini_wire import KEY, TOKEN, GeminiWire
from google.oauth2.credentials import Credentials
from wire import Fault

import sgl_lang as sgl
from sgl_lang import BackendError, Message, ProgramError, Prompt, SamplingParams, UnsupportedByBackend

PNG = b"\x89PNG\r\n\x1a\n....."
HI = Prompt("rid", "", (Message("user", "hi"), Message("assistant", "")))


def make(wire: GeminiWire, **options):
    where = {"project": "a-project", "location": "a-place", "base_url": wire.url, "max_retries": 0}
    return sgl.VertexAI("gemini", credentials=Credentials(token=TOKEN), **{**where, **options})


def test_a_request(gemini):
    turns = (
        Message("system", "Be kind."),
        Message("user", "hi"),
        Message("assistant", "Hello."),
        Message("user", "so?"),
    )
    params = SamplingParams(
        max_new_tokens=9, stop=("x",), temperature=0.5, top_p=1.0, top_k=7, frequency_penalty=0.1,
        presence_penalty=0.2, seed=3, return_logprob=True, top_logprobs_num=1,
        json_schema='{"type": "object"}',
    )  # fmt: skip
    settings = [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}]
    with make(
        gemini, safety_settings=settings, config={"thinking_config": {"thinking_budget": 0}}
    ) as backend:
        backend.generate(Prompt("rid", "", turns), params)
    body = gemini.asked[-1].body
    assert body == {
        "systemInstruction": {"role": "user", "parts": [{"text": "Be kind."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "hi"}]},
            {"role": "model", "parts": [{"text": "Hello."}]},
            {"role": "user", "parts": [{"text": "so?"}]},
        ],
        "safetySettings": settings,
        "generationConfig": {
            "maxOutputTokens": 9,
            "stopSequences": ["x"],
            "temperature": 0.5,
            "topP": 1.0,
            "topK": 7,
            "frequencyPenalty": 0.1,
            "presencePenalty": 0.2,
            "seed": 3,
            "responseLogprobs": True,
            "logprobs": 1,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object"},
            "thinkingConfig": {"thinking_budget": 0},
        },
    }


def test_logprobs_and_samples(gemini):
    with make(gemini) as backend:
        told = backend.generate(HI, SamplingParams(return_logprob=True)).meta_info
        assert told["output_token_logprobs"][0] == [-0.5, 100, "Fine, "]
        assert told["output_top_logprobs"][1] == [[-0.5, 101, "thanks. "]]
        said = iter(["one", "two"] * 2)
        gemini.says = lambda body: next(said)
        whole = backend.generate(HI, SamplingParams(n=2))
        *_, streamed = backend.stream(HI, SamplingParams(n=2))
        for completion in (whole, streamed):
            assert [completion.text, completion.others[0].text] == ["one", "two"]


def test_images(gemini):
    @sgl.function
    def look(s):
        s += sgl.user(sgl.image(PNG) + "What?" + sgl.image("gs://bucket/y.png"))
        s += sgl.assistant(sgl.gen("answer"))

    with make(gemini) as backend:
        assert look.run(backend=backend)["answer"]
    (content,) = gemini.asked[-1].body["contents"]
    first, word, second = content["parts"]
    assert set(first["inlineData"].values()) == {"image/png", base64.b64encode(PNG).decode()}
    assert word == {"text": "What?"}
    assert set(second["fileData"].values()) == {"image/png", "gs://bucket/y.png"}


def test_what_is_blocked(gemini):
    with make(gemini) as backend:
        gemini.blocks = "PROHIBITED_CONTENT"
        for ask in (backend.generate, lambda *args: list(backend.stream(*args))):
            with pytest.raises(BackendError, match=r"blocked the prompt \(prohibited_content\)"):
                ask(HI, SamplingParams())
        gemini.blocks = None
        gemini.ends = "SAFETY"
        completion = backend.generate(HI, SamplingParams())
        assert (completion.text, completion.meta_info["finish_reason"]["type"]) == (gemini.says, "safety")
        gemini.says = ""
        with pytest.raises(BackendError, match="refused: safety"):
            backend.generate(HI, SamplingParams())


def test_the_pause_that_an_error_asks_for(gemini):
    gemini.delay = "61.5s"
    gemini.faults.append(Fault(429, "quota"))
    with (
        make(gemini, max_retries=3) as backend,
        pytest.raises(BackendError, match=r"quota.*asks to wait 62 s") as raised,
    ):
        backend.generate(HI, SamplingParams())
    assert raised.value.retry_after == 61.5


def test_the_systems_words_in_the_middle_are_refused(gemini):
    turns = (Message("user", "hi"), Message("system", "be kind"), Message("assistant", ""))
    with make(gemini) as backend, pytest.raises(UnsupportedByBackend, match="in a turn of the user"):
        backend.generate(Prompt("rid", "", turns), SamplingParams())
    assert gemini.asked == []


@pytest.mark.parametrize("asked", [{"regex": "a+"}, {"min_p": 0.5}, {"dtype": int}, {"min_tokens": 3}])
def test_what_gemini_cannot_do_is_refused_before_any_request(gemini, asked):
    @sgl.function
    def program(s):
        s += sgl.user("hi")
        s += sgl.assistant(sgl.gen("a", **asked))

    with make(gemini) as backend, pytest.raises(UnsupportedByBackend):
        program.run(backend=backend).text()
    assert gemini.asked == []


def test_options_that_cannot_be_right(monkeypatch, gemini):
    for name in (
        "GOOGLE_API_KEY",
        "GEMINI_API_KEY",
        "GOOGLE_CLOUD_PROJECT",
        "GOOGLE_APPLICATION_CREDENTIALS",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ProgramError, match="API key"):
        sgl.VertexAI("gemini", vertexai=False)
    with pytest.raises(ProgramError, match="no_such_field"):
        make(gemini, config={"no_such_field": 1})
    with pytest.raises(ProgramError, match="no_such_field"):
        make(gemini, http_options={"no_such_field": 1})


def test_the_developer_api(gemini):
    with sgl.VertexAI("gemini", vertexai=False, api_key=KEY, base_url=gemini.url) as backend:
        backend.generate(HI, SamplingParams(json_schema=json.dumps({"type": "string"})))
    assert gemini.asked[-1].path.split("/", 2)[2] == "models/gemini:generateContent"
