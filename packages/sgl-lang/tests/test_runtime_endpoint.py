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
    return RuntimeEndpoint("http://server:30000/", client=client, **kwargs), requests


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
    assert [request.url.path for request in requests] == ["/generate", "/get_model_info"], (
        "asked on after a failure"
    )


def test_a_server_that_is_not_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: connections are refused
        port = taken.getsockname()[1]
        with RuntimeEndpoint(f"http://localhost:{port}") as endpoint:
            state = chat.run(backend=endpoint)
            with pytest.raises(BackendError, match=f"start one there with: sgl-runtime serve --port {port}"):
                state["a"]
            assert state.error().__context__ is not None
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
    endpoint._client.close()
    endpoint.abort("r2")


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
