# SPDX-License-Identifier: Apache-2.0
"""OpenAI: both endpoints, parameters, schemas, images, options, and what is refused."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import tiktoken
from openai_wire import KEY, OpenAIWire, bytewise
from wire import Fault, Refused

import sgl_lang as sgl
from sgl_lang import BackendError, Message, ProgramError, Prompt, SamplingParams, UnsupportedByBackend

PROMPT = Prompt("rid", "Q: hi\nA:", (Message("user", "hi"), Message("assistant", "")))
PNG = b"\x89PNG\r\n\x1a\n....."


def make(wire: OpenAIWire, model: str = "gpt-4o", **options):
    return sgl.OpenAI(model, base_url=f"{wire.url}/v1", api_key=KEY, max_retries=0, **options)


def asked(wire: OpenAIWire, params: SamplingParams, model: str = "gpt-4o", **options):
    """The body of the request that these parameters make."""
    with make(wire, model, **options) as backend:
        backend.generate(PROMPT, params)
    return wire.asked[-1].body


def test_chat_parameters(openai):
    openai.limited = False
    params = SamplingParams(
        max_new_tokens=9, stop=("x",), temperature=0.5, top_p=0.9, frequency_penalty=0.1,
        presence_penalty=0.2, logit_bias={7: -100.0}, seed=3, return_logprob=True,
        top_logprobs_num=2, top_k=-1, ignore_eos=False,
    )  # fmt: skip
    assert asked(openai, params, extra_body={"top_k": 4}) == {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 9,
        "stop": ["x"],
        "temperature": 0.5,
        "top_p": 0.9,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "logit_bias": {"7": -100.0},
        "seed": 3,
        "logprobs": True,
        "top_logprobs": 2,
        "top_k": 4,
    }


def test_completion_parameters(openai):
    params = SamplingParams(max_new_tokens=9, temperature=0.0, return_logprob=True, top_logprobs_num=2)
    assert asked(openai, params, "gpt-3.5-turbo-instruct") == {
        "model": "gpt-3.5-turbo-instruct",
        "prompt": "Q: hi\nA:",
        "max_tokens": 9,
        "temperature": 0.0,
        "logprobs": 2,
    }
    assert asked(openai, params, "some-base-model", is_chat_model=False)["prompt"] == "Q: hi\nA:"


def test_reasoning_models_are_asked_in_their_own_words(openai):
    openai.thinks = True
    params = SamplingParams(max_new_tokens=50, stop=("And",), temperature=1.0)
    for model in ("o3-mini", "gpt-5", "o1"):
        body = asked(openai, params, model)
        assert body["max_completion_tokens"] == 50
        assert "temperature" not in body
    with make(openai, "o4-mini") as backend:
        assert backend.generate(PROMPT, params).text == "Fine, thanks. "
        with pytest.raises(BackendError, match="'temperature' is not supported with this model"):
            backend.generate(PROMPT, SamplingParams(temperature=0.5))
    openai.thinks = False
    body = asked(openai, params, max_tokens_name="max_completion_tokens")
    assert (body["max_completion_tokens"], body["stop"]) == (50, ["And"])


def test_openais_own_models_have_their_own_limit():
    with sgl.OpenAI("gpt-4o", api_key=KEY) as backend:
        assert backend._ask(PROMPT, SamplingParams(max_new_tokens=5)).fields["max_completion_tokens"] == 5


def test_azure(openai):
    with sgl.OpenAI(
        "my-deployment", is_azure=True, azure_endpoint=openai.url, api_version="2025-01-01", api_key=KEY
    ) as backend:
        assert backend.generate(PROMPT, SamplingParams()).text == "Fine, thanks. And you?"
    (request,) = openai.asked
    assert request.path == "/openai/deployments/my-deployment/chat/completions?api-version=2025-01-01"
    assert request.headers["api-key"] == KEY
    assert "authorization" not in request.headers


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-3.5-turbo-instruct"])
def test_several_samples(openai, model):
    said = iter(["one two", "three four"] * 2)
    openai.says = lambda body: next(said)
    params = SamplingParams(n=2, max_new_tokens=20)
    with make(openai, model) as backend:
        whole = backend.generate(PROMPT, params)
        *_, streamed = backend.stream(PROMPT, params)
    for completion in (whole, streamed):
        assert [completion.text, *(other.text for other in completion.others)] == ["one two", "three four"]
        assert completion.meta_info["completion_tokens"] == 4
        assert completion.others[0].meta_info["finish_reason"] == {"type": "stop"}


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-3.5-turbo-instruct"])
def test_logprobs(openai, model):
    openai.says = "Fine, thanks."
    with make(openai, model) as backend:
        told = backend.generate(PROMPT, SamplingParams(return_logprob=True, top_logprobs_num=2)).meta_info
    assert told["output_token_logprobs"] == [[-0.5, None, "Fine, "], [-0.5, None, "thanks."]]
    assert [-2.0, None, "so"] in told["output_top_logprobs"][0]


def test_a_schema_is_made_strict(openai):
    schema = {
        "type": "object",
        "title": "Person",
        "properties": {
            "name": {"type": "string", "default": "Ada"},
            "properties": {"type": "array", "items": {"$ref": "#/$defs/Pet"}},
        },
        "$defs": {"Pet": {"type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}}}},
        "required": ["name"],
    }
    form = asked(openai, SamplingParams(json_schema=json.dumps(schema)))["response_format"]
    assert form["type"] == "json_schema"
    assert form["json_schema"] == {
        "name": "answer",
        "strict": True,
        "schema": {
            "type": "object",
            "title": "Person",
            "properties": {
                "name": {"type": "string"},
                "properties": {"type": "array", "items": {"$ref": "#/$defs/Pet"}},
            },
            "$defs": {
                "Pet": {
                    "type": "object",
                    "properties": {"kind": {"enum": ["cat", "dog"]}},
                    "required": ["kind"],
                    "additionalProperties": False,
                }
            },
            "required": ["name", "properties"],
            "additionalProperties": False,
        },
    }


def test_images(openai, tmp_path):
    (tmp_path / "cat.png").write_bytes(PNG)

    @sgl.function
    def look(s):
        s += sgl.user(sgl.image(str(tmp_path / "cat.png")) + "What is it?" + sgl.image("https://x.org/y.jpg"))
        s += sgl.assistant(sgl.gen("answer"))

    with make(openai) as backend:
        assert look.run(backend=backend)["answer"]
        (message,) = openai.asked[-1].body["messages"]
        assert [part["type"] for part in message["content"]] == ["image_url", "text", "image_url"]
        assert message["content"][0]["image_url"]["url"].startswith("data:image/png;base64,iVBORw0K")
        assert message["content"][2]["image_url"]["url"] == "https://x.org/y.jpg"
    with make(openai, "davinci-002") as backend, pytest.raises(UnsupportedByBackend):
        look.run(backend=backend)
    assert len(openai.asked) == 1


def test_refusals_and_empty_answers(openai):
    openai.refuses = "I will not."
    with make(openai) as backend:
        with pytest.raises(BackendError, match="OpenAI refused: I will not"):
            backend.generate(PROMPT, SamplingParams())
        with pytest.raises(BackendError, match="OpenAI refused: I will not"):
            list(backend.stream(PROMPT, SamplingParams()))
        openai.refuses = None
        openai.says = ""
        assert backend.generate(PROMPT, SamplingParams()).text == ""
        openai.says = "Hm"
        openai.ends = "content_filter"
        assert backend.generate(PROMPT, SamplingParams()).meta_info["finish_reason"] == {
            "type": "content_filter"
        }


@pytest.mark.parametrize(
    "choice",
    [
        {"index": 7, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"},
        {"index": 0, "message": {"role": "assistant", "content": [{"text": "x"}]}, "finish_reason": "stop"},
    ],
)
def test_an_answer_of_another_kind(openai, choice):
    openai.faults.append(Fault(200, raw=json.dumps({"id": "1", "choices": [choice]}).encode()))
    with make(openai) as backend, pytest.raises(BackendError, match=r"format|sample number 7"):
        backend.generate(PROMPT, SamplingParams())


def test_an_empty_account_is_not_asked_again(openai):
    body = {"error": {"message": "You exceeded your quota", "type": "x", "code": "insufficient_quota"}}
    openai.faults += [Fault(429, raw=json.dumps(body).encode())] * 3
    with (
        sgl.OpenAI("gpt-4o", base_url=f"{openai.url}/v1", api_key=KEY) as backend,
        pytest.raises(BackendError, match="exceeded your quota"),
    ):
        backend.generate(PROMPT, SamplingParams())
    assert len(openai.asked) == 1


# -- one call for several generations


def test_a_turn_is_asked_for_as_a_whole(openai):
    @sgl.function(num_api_spec_tokens=64)
    def describe(s):
        s += sgl.user("Describe Ada.")
        s += sgl.assistant(
            "Name: " + sgl.gen("name", stop="\n") + "\nJob: " + sgl.gen("job", stop="\n") + "\n"
        )

    openai.says = "Name: Ada\nJob: poet of numbers\nAge: 36"
    with make(openai) as backend:
        state = describe.run(backend=backend)
        assert (state["name"], state["job"]) == ("Ada", "poet of numbers")
    (request,) = openai.asked
    assert request.body["messages"] == [{"role": "user", "content": "Describe Ada."}]


def test_a_text_is_asked_for_beyond_its_stop_string(openai):
    @sgl.function(num_api_spec_tokens=64)
    def describe(s):
        s += "Name:" + sgl.gen("name", stop="\n") + "\nJob:" + sgl.gen("job", stop="\n")

    openai.says = " Ada\nJob: poet of numbers\nAge: 36"
    with make(openai, "gpt-3.5-turbo-instruct") as backend:
        state = describe.run(backend=backend)
        assert (state["name"], state["job"]) == (" Ada", " poet of numbers")
    (request,) = openai.asked
    assert request.body["max_tokens"] == 128
    assert "stop" not in request.body


def test_a_batch_of_which_one_fails(openai):
    @sgl.function
    def ask(s, question):
        s += sgl.user(question)
        s += sgl.assistant(sgl.gen("answer"))

    def says(body):
        if "bad" in body["messages"][0]["content"]:
            raise Refused(400, "not such questions")
        return body["messages"][0]["content"].upper()

    openai.says = says
    with make(openai) as backend:
        states = ask.run_batch([{"question": each} for each in ("one", "bad", "two")], backend=backend)
    assert (states[0]["answer"], states[2]["answer"]) == ("ONE", "TWO")
    assert "not such questions" in str(states[1].error())


# -- what is refused, before any request


@pytest.mark.parametrize(
    ("expression", "remedy"),
    [
        (lambda: sgl.gen("a", regex="[ab]+"), "json_schema"),
        (lambda: sgl.gen("a", min_tokens=5), "extra_body"),
        (lambda: sgl.gen("a", top_k=5), "extra_body"),
        (lambda: sgl.gen("a", stop_token_ids=[1]), "stop"),
        (lambda: sgl.gen("a", dtype=int), "json_schema"),
        (lambda: sgl.select("a", ["x", "y"]), ""),
        (lambda: "Well, " + sgl.gen("a"), "num_api_spec_tokens"),
    ],
)
def test_what_a_chat_model_cannot_do(openai, expression, remedy):
    @sgl.function
    def program(s):
        s += sgl.user("hi")
        s += sgl.assistant(expression())

    with make(openai) as backend, pytest.raises(UnsupportedByBackend, match=remedy or None):
        state = program.run(backend=backend)
        state.text()
    assert openai.asked == []


def test_options_that_cannot_be_right(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ProgramError, match="api_key"):
        sgl.OpenAI("gpt-4o")
    with pytest.raises(ProgramError, match="no_such_option"):
        sgl.OpenAI("gpt-4o", api_key=KEY, no_such_option=1)
    with pytest.raises(ProgramError, match="no chat template"):
        sgl.OpenAI("gpt-4o", api_key=KEY, chat_template="nonesuch")


# -- values of a type, and options


def test_typed_values_of_a_completion_model(openai):
    with make(openai, "gpt-3.5-turbo-instruct", tokenizer=bytewise(b"12", b"123")) as backend:
        openai.says = "42 is it"
        assert backend.generate(PROMPT, SamplingParams(dtype="int")).text == "42"
        body = openai.asked[-1].body
        assert body["stop"] == [" ", "\n"]
        assert set(body["logit_bias"]) >= {str(ord("7")), "256", "1000"}
        assert "257" not in body["logit_bias"]
        openai.says = 'Ada" she said'
        assert backend.generate(PROMPT, SamplingParams(dtype="str")).text == '"Ada"'
        assert openai.asked[-1].body["prompt"] == 'Q: hi\nA:"'
        assert [each.text for each in backend.stream(PROMPT, SamplingParams(dtype="str"))] == ['"Ada"']
        openai.says = "none"
        with pytest.raises(BackendError, match="'none' where an int was asked for"):
            backend.generate(PROMPT, SamplingParams(dtype="int"))
        with pytest.raises(UnsupportedByBackend, match="not float; use choices"):
            backend.generate(PROMPT, SamplingParams(dtype="float"))


def walk(openai, options, likes, tokenizer=None):
    """The scores of a walk by a model that likes one continuation; and how many requests it took."""
    tokenizer = tokenizer or bytewise()
    openai.tokenizer = tokenizer

    def prefers(text, allowed):
        wanted = [*tokenizer.encode(PROMPT.text + likes, disallowed_special=()), tokenizer.eot_token]
        assert wanted[: len(text)] == text
        return wanted[len(text)]

    openai.prefers = prefers
    before = len(openai.asked)
    with make(openai, "gpt-3.5-turbo-instruct", tokenizer=tokenizer) as backend:
        assert backend.capabilities.scores == "walk"
        scores = backend.score(PROMPT, options)
    return [sum(option.logprobs) for option in scores.options], len(openai.asked) - before


@pytest.mark.parametrize(
    ("options", "likes", "requests"),
    [
        (["yes", "no"], "no", 1),
        (["yes", "no"], "yes", 1),
        (["organ", "organism"], "organism", 1),
        (["organ", "organism"], "organ", 1),
        (["ab", "abc", "abd", "x"], "abd", 2),
        (["", "a"], "", 1),
        (["", "a"], "a", 1),
        (["one"], "one", 0),
        (["same", "same", "other"], "same", 1),
        (["好的", "好疑", "不"], "好疑", 2),  # told apart in the middle of a character
    ],
)
def test_a_walk_takes_what_the_model_likes(openai, options, likes, requests):
    scores, count = walk(openai, options, likes)
    assert [score == 0 for score in scores] == [option == likes for option in options]
    assert all(score in (0, -math.inf) for score in scores)
    assert count == requests


def test_a_walk_over_a_token_that_is_half_prompt(openai):
    tokenizer = bytewise(b"A:", b"A: ", b"A: y")
    assert tokenizer.encode(PROMPT.text + " yes") != [
        *tokenizer.encode(PROMPT.text), *tokenizer.encode(" yes"),
    ]  # fmt: skip
    for likes in (" yes", " no"):
        scores, _ = walk(openai, [" yes", " no"], likes, tokenizer)
        assert [score == 0 for score in scores] == [likes == " yes", likes == " no"]


def test_select_on_a_completion_model(openai):
    openai.prefers = lambda text, allowed: max(allowed)

    @sgl.function
    def program(s):
        s += "Is it? " + sgl.select("answer", ["yes", "no", "maybe"])

    with make(openai, "gpt-3.5-turbo-instruct", tokenizer=bytewise()) as backend:
        state = program.run(backend=backend)
        assert state["answer"] == "yes"
        assert state.text() == "Is it? yes"
        assert backend.token_usage.completion_tokens == 1


def test_too_many_options_and_a_model_beside_them(openai):
    with make(openai, "gpt-3.5-turbo-instruct", tokenizer=bytewise()) as backend:
        with pytest.raises(UnsupportedByBackend, match="at most 300 options apart, not 301"):
            backend.score(PROMPT, [str(number) for number in range(301)])
        assert openai.asked == []
        openai.prefers = lambda text, allowed: ord("q")
        with pytest.raises(BackendError, match="went on with 'q'"):
            backend.score(PROMPT, ["yes", "no"])


def test_a_model_whose_tokenizer_nobody_knows(openai):
    with (
        make(openai, "nobody-knows", is_chat_model=False) as backend,
        pytest.raises(ProgramError, match=r"'nobody-knows' is not known; pass .* tokenizer="),
    ):
        backend.generate(PROMPT, SamplingParams(dtype="int"))
    assert openai.asked == []


def test_a_tokenizer_that_cannot_be_fetched(openai, monkeypatch):
    def fetch(model: str) -> tiktoken.Encoding:
        raise ConnectionError("no network")

    monkeypatch.setattr(tiktoken, "encoding_for_model", fetch)
    with (
        make(openai, "gpt-3.5-turbo-instruct") as backend,
        pytest.raises(ProgramError, match=r"cannot be fetched \(no network\); pass"),
    ):
        backend.score(PROMPT, ["a", "b"])


@pytest.mark.parametrize(
    ("model", "options"), [("a-base-model", {"is_chat_model": False}), ("davinci-002", {})]
)
def test_options_by_an_echo(openai, model, options):
    with make(openai, model, **options) as backend:
        assert backend.capabilities.scores == "logprobs"
        prompt = Prompt("rid", "It is a ")
        scores = backend.score(prompt, ["big cat", "dog"])
        assert [option.logprobs for option in scores.options] == [(-0.4, -0.3), (-0.3,)]
        assert openai.asked[-1].body["prompt"] == ["It is a big cat", "It is a dog"]
        # Where prompt and option meet inside a token, all begin at the token before.
        scores = backend.score(Prompt("rid", "It is a"), [" big cat", "n ox"])
        assert [option.logprobs for option in scores.options] == [(-0.2, -0.4, -0.3), (-0.3, -0.2)]
        scores = backend.score(prompt, ["big cat", "dog"], unconditional=True)
        assert [option.unconditional for option in scores.options] == [(0.0, -0.3), (0.0,)]
        assert scores.meta_info["prompt_tokens"] == 14


def test_the_pairs_of_a_stream_only_grow(openai):
    with make(openai) as backend:
        texts = [each.text for each in backend.stream(PROMPT, SamplingParams(stop=tuple("qwertyz")))]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    assert texts[-1] == "Fin"


def test_tiktoken_has_what_a_walk_needs():
    encoding: tiktoken.Encoding = bytewise()
    assert encoding.decode_single_token_bytes(encoding.encode("x", disallowed_special=())[0]) == b"x"
