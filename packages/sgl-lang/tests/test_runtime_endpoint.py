# SPDX-License-Identifier: Apache-2.0
"""RuntimeEndpoint: what it sends, what it makes of answers, and of servers that fail or are not there."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest

import sgl_lang as sgl
from sgl_lang import (
    BackendError,
    ChatTemplate,
    Markup,
    ProgramError,
    RuntimeEndpoint,
    assistant,
    function,
    gen,
    user,
)


@function
def chat(s):
    s += user("hi")
    s += assistant(gen("a", max_tokens=5))


@function
def plain(s):
    s += "hi" + gen("a")


@pytest.fixture
def endpoint(runtime):
    with RuntimeEndpoint(runtime.url) as endpoint:
        yield endpoint


def mock(answer, **kwargs):
    """An endpoint on whose requests `answer` is called, and the requests it was called with."""
    requests = []

    def handle(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return answer(request)

    client = httpx.Client(transport=httpx.MockTransport(handle))
    return RuntimeEndpoint("http://server:30000/", client=client, max_retries=0, **kwargs), requests


def always(**response):
    return lambda request: httpx.Response(**{"status_code": 200, **response})


def test_the_request_holds_what_was_said_and_nothing_else():
    endpoint, requests = mock(
        always(json={"text": " ho", "meta_info": {"prompt_tokens": 1}}), api_key="secret"
    )

    given = {"stop_token_ids": [7], "temperature": 0.5, "top_p": 0.9, "top_k": 3, "min_p": 0.1, "seed": 3}
    given |= {
        "frequency_penalty": 0.2,
        "presence_penalty": 0.3,
        "repetition_penalty": 1.1,
        "ignore_eos": True,
    }
    beside = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    beside |= {"return_text_in_logprobs": True}

    @function
    def program(s):
        s += "hi" + gen("a", 5, ["x"], min_tokens=1, **given, **beside)
        s += gen("b")

    state = program.run(backend=endpoint)
    assert (state["a"], state.get_meta_info("a")) == (" ho", {"prompt_tokens": 1})
    first, second = (json.loads(request.content) for request in requests)
    assert len(first.pop("rid")) == 32
    sampling = {"max_new_tokens": 5, "min_new_tokens": 1, "stop": ["x"], **given}
    assert first == {"text": "hi", "stream": False, "sampling_params": sampling, **beside}
    assert second["text"] == "hi ho"
    assert second["rid"] != first
    assert second["sampling_params"] == {
        "max_new_tokens": 128,
        "stop": [],
        "stop_token_ids": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": -1,
        "frequency_penalty": 0.0,
        "presence_penalty": 0.0,
        "ignore_eos": False,
    }
    assert set(second) == {"rid", "text", "stream", "sampling_params"}
    assert [str(request.url) for request in requests] == ["http://server:30000/generate"] * 2
    assert requests[0].headers["authorization"] == "Bearer secret"


def test_the_servers_markup_is_asked_for_once_and_used():
    markup = {
        "roles": {"system": ["<S>", "</S>"], "user": ["<U>", "</U>"], "assistant": ["<A>", "</A>"]},
        "default_system": "Be kind.",
        "stop": ["</A>"],
    }
    info = {"model_path": "m", "is_generation": True, "chat_template": markup}
    endpoint, requests = mock(
        lambda request: httpx.Response(200, json=info if request.method == "GET" else {"text": "ho"})
    )
    states = [chat.run(backend=endpoint) for _ in range(3)]
    assert states[0].text() == "<S>Be kind.</S><U>hi</U><A>ho</A>"
    assert [m["role"] for m in states[0].messages()] == ["system", "user", "assistant"]
    assert json.loads(requests[1].content)["sampling_params"]["stop"] == ["</A>"]
    assert [request.url.path for request in requests] == ["/get_model_info"] + ["/generate"] * 3


@pytest.mark.parametrize(
    ("path", "begin"),
    [
        ("meta-llama/Meta-Llama-3-8B-Instruct", "<|start_header_id|>user"),
        ("Qwen/Qwen2-7B-Instruct", "<|im_start|>system\nYou are a helpful assistant."),
        ("gpt2", "USER:hi"),
    ],
)
@pytest.mark.parametrize("silent", [{}, {"chat_template": None}])
def test_a_server_that_cannot_say_is_guessed_by_its_model(path, begin, silent):
    info = {"model_path": path, "is_generation": True, **silent}
    endpoint, _ = mock(
        lambda request: httpx.Response(200, json=info if request.method == "GET" else {"text": ""})
    )
    assert chat.run(backend=endpoint).text().startswith(begin)


def test_the_user_may_choose_the_markup():
    own = ChatTemplate("own", {"user": Markup("Q:", "\n"), "assistant": Markup("A:", "\n")})
    for choice, text in ((own, "Q:hi\nA:ho\n"), ("vicuna_v1.1", None)):
        endpoint, requests = mock(always(json={"text": "ho"}), chat_template=choice)
        state = chat.run(backend=endpoint)
        assert text is None or state.text() == text
        assert [request.method for request in requests] == ["POST"]
    with pytest.raises(ProgramError, match=r"no chat template 'lama'; there are default, .*llama-2-chat"):
        RuntimeEndpoint("http://server", chat_template="lama")


@pytest.mark.parametrize("markup", [{}, {"roles": {"user": "x"}}, {"roles": {"user": ["a", "b"]}}, [1]])
def test_markup_of_another_version_is_refused(markup):
    endpoint, _ = mock(always(json={"model_path": "m", "chat_template": markup}))
    with pytest.raises(BackendError, match="chat template of another version"):
        chat.run(backend=endpoint)["a"]


@pytest.mark.parametrize(
    ("response", "status", "words"),
    [
        (
            {"status_code": 400, "json": {"error": {"message": "top_p must be in (0, 1]"}}},
            400,
            "answered 400: top_p must",
        ),
        ({"status_code": 401, "json": {"error": "Unauthorized"}}, 401, r"Unauthorized; pass .*api_key"),
        ({"status_code": 404, "json": {"detail": "Not Found"}}, 404, "answered 404: .*Not Found"),
        ({"status_code": 500, "text": "it broke"}, 500, "answered 500: it broke"),
        ({"status_code": 503}, 503, "answered 503: Service Unavailable"),
        ({"status_code": 302}, 302, "answered 302: Found"),
        ({"text": "<html>"}, None, "does not answer like an sgl-runtime server: <html>"),
        ({"json": ["text"]}, None, "does not answer like"),
        ({"json": {"meta_info": {}}}, None, "without a text"),
        ({"json": {"error": {"message": "out of memory"}}}, None, "failed: out of memory"),
        (
            {
                "json": {
                    "text": "",
                    "meta_info": {"finish_reason": {"type": "abort", "message": "shutting down"}},
                }
            },
            None,
            "aborted the request: shutting down",
        ),
    ],
)
def test_the_servers_own_words_are_passed_on(response, status, words):
    for stream in (False, True):
        answer = dict(response)
        if stream and "status_code" not in response:
            body = answer.pop("text", None) or json.dumps(answer.pop("json"))
            answer["text"] = f"data: {body}\n\ndata: [DONE]\n\n"
        endpoint, _ = mock(always(**answer))
        with pytest.raises(BackendError, match=words) as caught:
            plain.run(backend=endpoint, stream=stream)["a"]
        assert caught.value.status == status
        assert "http://server:30000" in str(caught.value)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ReadTimeout("timed out"), "failed: timed out"),
        (httpx.ReadError(""), "failed: ReadError"),
        (httpx.ConnectTimeout("timed out"), r"no server answers at http://server:30000 \(timed out\)"),
    ],
)
def test_trouble_on_the_wire(stream, error, words):
    def fail(request):
        raise error

    endpoint, requests = mock(fail)
    for program in (plain, chat):
        with pytest.raises(BackendError, match=words):
            program.run(backend=endpoint, stream=stream)["a"]
    asked = [request.url.path for request in requests if request.url.path != "/abort_request"]
    assert asked == ["/generate", "/get_model_info"], "asked on after a failure"


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: connections are refused
        port = taken.getsockname()[1]
        with RuntimeEndpoint(f"http://localhost:{port}", max_retries=0) as endpoint:
            state = chat.run(backend=endpoint)
            with pytest.raises(BackendError, match=f"start one there with: sgl-runtime serve --port {port}"):
                state["a"]
            with pytest.raises(BackendError, match="no server answers"):
                sgl.get_server_args(endpoint)


def test_urls_that_cannot_be_right():
    for url in ("localhost:30000", "127.0.0.1", ""):
        with pytest.raises(ProgramError, match="must begin with http"):
            RuntimeEndpoint(url)


def test_the_servers_own_functions(runtime, endpoint):
    assert sgl.get_server_args(endpoint) == {"tp_size": 2}
    sgl.flush_cache(endpoint)
    busy, _ = mock(always(status_code=409, json={"error": {"message": "requests are running"}}))
    with pytest.raises(BackendError, match="requests are running"):
        sgl.flush_cache(busy)


def test_vectors():
    answers = [{"embedding": [0.6, 0.8], "meta_info": {}}, {"embedding": [1.0, 0.0], "meta_info": {}}]
    endpoint, requests = mock(always(json=answers))
    assert endpoint.encode(["a", "b"]) == [[0.6, 0.8], [1.0, 0.0]]
    assert requests[0].url.path == "/encode" and json.loads(requests[0].content) == {"text": ["a", "b"]}
    generating, _ = mock(always(status_code=400, json={"error": {"message": "this model generates text"}}))
    with pytest.raises(BackendError, match="this model generates text"):
        generating.encode(["a"])
    odd, _ = mock(always(json={"text": "x"}))
    with pytest.raises(BackendError, match="without embeddings"):
        odd.encode(["a"])


def test_streaming_over_a_real_connection(runtime, endpoint):
    texts = ["你", "你好", "你好\u2028\n\r\x85!"]
    runtime.answer = lambda body: texts
    for _ in range(3):
        state = plain.run(stream=True, backend=endpoint)
        assert "".join(state.text_iter("a")) == texts[-1]
        assert state.text() == "hi" + texts[-1]
        assert state.get_meta_info("a") == {"finish_reason": None}
    assert plain.run(backend=endpoint)["a"] == texts[-1]
    assert runtime.connections == 1, "a stream that was read to its end leaves its connection usable"


@pytest.mark.parametrize("how", [0, 1])
def test_a_server_that_dies_in_the_middle(runtime, endpoint, how):
    runtime.answer = lambda body: ["one", "one two", how]
    state = plain.run(stream=True, backend=endpoint)
    seen = []
    with pytest.raises(
        BackendError, match=r"ended its answer in the middle|connection to the server .* failed"
    ):
        seen.extend(state.text_iter("a"))
    assert "".join(seen) == "one two"
    assert isinstance(state.error(), BackendError)


def test_an_error_inside_the_stream(runtime, endpoint):
    runtime.answer = lambda body: ["one", {"error": {"message": "the engine died"}}]
    state = plain.run(stream=True, backend=endpoint)
    assert next(state.text_iter("a")) == "one"
    with pytest.raises(BackendError, match="failed: the engine died"):
        state["a"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_refused_request(runtime, endpoint, stream):
    runtime.answer = lambda body: [{"error": {"message": "the prompt is too long"}}]
    with pytest.raises(BackendError, match="answered 400: the prompt is too long") as caught:
        plain.run(stream=stream, backend=endpoint)["a"]
    assert caught.value.status == 400


def test_giving_up_aborts_the_request_on_the_server(runtime, endpoint):
    arrived = threading.Event()

    def answer(body):
        arrived.set()
        assert runtime.aborting(body["rid"]).wait(10)
        return [{"error": {"message": "aborted"}}]

    @function
    def program(s):
        s += gen("a")
        assert arrived.wait(10)
        raise LookupError("enough")

    runtime.answer = answer
    with pytest.raises(LookupError):
        program.run(backend=endpoint)
    assert [event.is_set() for event in runtime.aborted.values()] == [True]


def test_abort_never_raises():
    def fail(request):
        raise httpx.ConnectError("refused")

    endpoint, requests = mock(fail)
    endpoint.abort("r1")
    assert (requests[0].url.path, json.loads(requests[0].content)) == ("/abort_request", {"rid": "r1"})

    closed = RuntimeEndpoint("http://server")
    closed.close()
    closed.abort("r2")


def test_a_stream_that_is_dropped_closes_its_connection(runtime, endpoint):
    runtime.answer = lambda body: _Endless()
    stream = endpoint.stream(sgl.Prompt("r", "hi"), sgl.SamplingParams())
    assert next(stream).text == "x"
    stream.close()
    assert runtime.gone.wait(10)


class _Endless:
    def __getitem__(self, index):
        return "x"

    def __iter__(self):
        return iter(lambda: "x", None)


def test_proxies_are_not_asked_for_this_machine(runtime, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for url in (runtime.url, runtime.url.replace("127.0.0.1", "localhost")):
        with RuntimeEndpoint(url) as endpoint:
            assert endpoint.get_model_info()["is_generation"]


def test_the_callers_client_stays_open():
    endpoint, _ = mock(always(json={"text": "ho"}))
    with endpoint:
        pass
    assert plain.run(backend=endpoint)["a"] == "ho"


def test_ctrl_c_ends_a_script_at_once(runtime, tmp_path):
    arrived = threading.Event()
    left = threading.Event()

    def answer(body):
        arrived.set()
        runtime.aborting(body["rid"]).wait(10)
        left.set()
        return ["late"]

    runtime.answer = answer
    script = tmp_path / "program.py"
    script.write_text(
        "import sgl_lang as sgl\n"
        "@sgl.function\n"
        "def program(s):\n"
        "    s += 'hi' + sgl.gen('a')\n"
        f"program.run(backend=sgl.RuntimeEndpoint({runtime.url!r}))\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    assert arrived.wait(30)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert left.wait(10)
    assert runtime.aborted
    assert process.returncode == -signal.SIGINT
    assert told.rstrip().endswith("KeyboardInterrupt")


def test_constraints_are_sent_as_the_server_spells_them(runtime, endpoint):
    @function
    def program(s):
        s += sgl.gen_int("i") + sgl.gen_string("s", stop="x") + gen("f", dtype=float) + gen("b", dtype="bool")
        s += gen("r", regex="a+") + gen("j", json_schema={"type": "object"}) + gen("e", ebnf='root ::= "a"')

    program.run(backend=endpoint)
    integer, string, number, truth, regex, schema, grammar = (
        body["sampling_params"] for body in runtime.bodies
    )
    assert (integer["regex"], integer["stop"]) == (r"[-+]?[0-9]+[ \n]*", [" ", "\n"])
    assert (string["regex"], string["stop"]) == (r'"[\w\d\s]*"', ["x"])
    assert number["regex"] == r"[-+]?[0-9]*\.?[0-9]+[ \n]*"
    assert truth["regex"] == "(True|False)"
    assert (regex["regex"], schema["json_schema"], grammar["ebnf"]) == (
        "a+",
        '{"type": "object"}',
        'root ::= "a"',
    )
    assert all("dtype" not in body["sampling_params"] for body in runtime.bodies)


@pytest.mark.parametrize("stream", [False, True])
def test_a_pattern_stops_the_answer_and_the_server(runtime, endpoint, stream):
    more = ["One, two 3" + " and so on" * 2000] * 500  # more than what a socket holds
    runtime.answer = lambda body: ["One", "One, two", "One, two 3", *more]

    @function
    def program(s):
        s += "x" + gen("a", stop_regex=[r"\d+", "z*"]) + "|"

    state = program.run(backend=endpoint, stream=stream)
    assert (state["a"], state.text()) == ("One, two ", "xOne, two |")
    assert list(program.run(backend=endpoint, stream=True).text_iter("a")) == ["One, two "]
    assert state.get_meta_info("a")["finish_reason"] == {"type": "stop", "matched": "3"}
    assert "stop_regex" not in runtime.bodies[0]["sampling_params"]
    assert runtime.gone.wait(5)
    runtime.answer = lambda body: ["One", "One, two"]
    assert program.run(backend=endpoint)["a"] == "One, two"


def test_several_samples_come_as_a_list_and_as_a_stream():
    @function
    def program(s):
        s += "x" + gen("a", n=2) + "y"

    whole, requests = mock(always(json=[{"text": "1", "meta_info": {"id": "r-0"}}, {"text": "2"}]))
    state = program.run(backend=whole)
    assert (state["a"], state.text(), state.get_meta_info("a")) == (["1", "2"], "x1y", [{"id": "r-0"}, {}])
    assert json.loads(requests[0].content)["sampling_params"]["n"] == 2
    events = [{"text": "2", "index": 1}, {"text": "1", "index": 0}, {"text": "22", "index": 1}]
    data = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    state = program.run(backend=mock(always(text=data))[0], stream=True)
    assert (state["a"], state.text()) == (["1", "22"], "x1y")


def scoring(tokenize, *, logprob=-1.0):
    """A server whose tokenizer is a function, and which finds a token's number its log-probability."""

    def answer(request):
        body = json.loads(request.content)
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"tokens": [tokenize(text) for text in body["prompt"]]})
        start = body["logprob_start_len"]
        return httpx.Response(
            200,
            json=[
                {
                    "text": "",
                    "meta_info": {
                        "prompt_tokens": len(ids),
                        "cached_tokens": 1,
                        "input_token_logprobs": [
                            [None if place == 0 else -float(token), token, None]
                            for place, token in enumerate(ids)
                            if place >= start
                        ],
                    },
                }
                for ids in body["input_ids"]
            ],
        )

    return mock(answer)


def words(text):
    """A token for each run of a letter: prompt and option meet inside one where the letters are the same."""
    ids, last = [], None
    for letter in text:
        if letter != last:
            ids.append(ord(letter))
        else:
            ids[-1] += 1000
        last = letter
    return ids


def test_options_are_scored_from_the_last_token_that_all_agree_on():
    endpoint, requests = scoring(words)
    prompt = sgl.Prompt("r", "abc")
    clean = endpoint.score(prompt, ["d", "de", "f"])
    assert [option.tokens for option in clean.options] == [(100,), (100, 101), (102,)]
    assert clean.options[1].logprobs == (-100.0, -101.0)
    assert json.loads(requests[1].content)["input_ids"][0] == [97, 98, 99, 100]
    inside = endpoint.score(prompt, ["c", "d"])  # "cc" is one token: both are scored from the prompt's c on
    assert [option.tokens for option in inside.options] == [(1099,), (99, 100)]
    longer = endpoint.score(prompt, ["cde", "def"])
    assert [option.tokens for option in longer.options] == [(1099, 100, 101), (99, 100, 101, 102)]
    nothing = endpoint.score(prompt, ["", "d"])  # no token of its own: the last one of the prompt stands in
    assert [option.tokens for option in nothing.options] == [(99,), (99, 100)]
    assert nothing.meta_info == {"prompt_tokens": 7, "cached_tokens": 2, "completion_tokens": 0}
    body = json.loads(requests[-1].content)
    assert (body["sampling_params"], body["logprob_start_len"], body["rid"]) == (
        {"max_new_tokens": 0, "temperature": 0},
        2,
        "r",
    )


def test_unconditional_scores_are_of_the_same_tokens_after_nothing():
    endpoint, requests = scoring(words)
    scores = endpoint.score(sgl.Prompt("r", "abc"), ["c", "de"], unconditional=True)
    assert [option.unconditional for option in scores.options] == [(0.0,), (0.0, -100.0, -101.0)]
    assert json.loads(requests[-1].content)["input_ids"] == [[1099], [99, 100, 101]]
    begins, requests = scoring(lambda text: [1, *words(text)])  # a tokenizer that begins every text
    scores = begins.score(sgl.Prompt("r", "abc"), ["d"], unconditional=True)
    assert json.loads(requests[-1].content)["input_ids"] == [[1, 100]]
    assert scores.options[0].unconditional == (-100.0,)


def test_without_any_text_before_it_nothing_makes_a_choice_likely():
    endpoint, _ = scoring(words)
    with pytest.raises(ProgramError, match="none before this one"):
        endpoint.score(sgl.Prompt("r", ""), ["a", "b"])
    begins, _ = scoring(lambda text: [1, *words(text)])
    assert begins.score(sgl.Prompt("r", ""), ["a"]).options[0].tokens == (97,)


def test_a_server_that_reports_no_scores_is_an_error():
    endpoint, _ = mock(
        lambda request: httpx.Response(
            200,
            json={"tokens": [[1], [1, 2], []]}
            if request.url.path == "/tokenize"
            else [{"text": "", "meta_info": {}}],
        )
    )
    with pytest.raises(BackendError, match="without input_token_logprobs"):
        endpoint.score(sgl.Prompt("r", "a"), ["b"])


def test_a_prefix_is_computed_without_generating():
    endpoint, requests = mock(always(json={"text": "", "meta_info": {}}))
    endpoint.warm(sgl.Prompt("r", "text"))
    body = json.loads(requests[0].content)
    assert (body["text"], body["sampling_params"]) == ("text", {"max_new_tokens": 0})


def test_an_error_says_when_the_server_wants_to_be_asked_again():
    busy = httpx.MockTransport(lambda request: httpx.Response(503, headers={"Retry-After": "7"}))
    backend = sgl.RuntimeEndpoint("http://x", client=httpx.Client(transport=busy), max_retries=0)
    with pytest.raises(sgl.BackendError) as raised:
        backend.flush_cache()
    assert (raised.value.status, raised.value.retry_after) == (503, 7.0)
