# SPDX-License-Identifier: Apache-2.0
"""What every vendor's backend does alike, through the vendor's own client, against a server on loopback."""

from __future__ import annotations

import gc
import logging
import threading
import time
import traceback
from email.utils import formatdate
from itertools import pairwise

import pytest
from wire import Fault

import sgl_lang as sgl
from sgl_lang import BackendError, Message, ProgramError, Prompt, SamplingParams

PROMPT = Prompt("a-rid", "hi", (Message("user", "hi"), Message("assistant", "")))
WORDS = "Fine, thanks. And you?"
SLOW_DOWN = {"Retry-After": "0"}


@sgl.function
def chat(s, question="How are you?"):
    s += sgl.system("Be polite.")
    s += sgl.user(question)
    s += sgl.assistant(sgl.gen("answer", max_tokens=20))


def test_a_program_runs_and_streams(vendor, backend):
    whole = chat.run(backend=backend)
    assert whole["answer"] == WORDS
    streamed = chat.run(backend=backend, stream=True)
    assert "".join(streamed.text_iter("answer")) == WORDS
    assert streamed.messages() == whole.messages()
    assert len(vendor.wire.asked) == 2


def test_meta_info_and_usage(backend):
    completion = backend.generate(PROMPT, SamplingParams(max_new_tokens=2))
    assert completion.text == "Fine, thanks. "
    assert completion.meta_info["id"] == "a-rid"
    assert completion.meta_info["finish_reason"]["type"] == "length"
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens"):
        assert completion.meta_info[name] == getattr(backend.token_usage, name) > 0
    *_, last = backend.stream(PROMPT, SamplingParams(max_new_tokens=2))
    assert last == completion
    assert backend.token_usage.prompt_tokens == 2 * completion.meta_info["prompt_tokens"]


def test_pieces_are_shown_as_they_arrive(vendor, backend):
    vendor.wire.faults.append(Fault(after=2, wait=True))
    stream = backend.stream(PROMPT, SamplingParams())
    while next(stream).text != "Fine, thanks. ":
        pass
    vendor.wire.released.set()
    *_, last = stream
    assert last.text == WORDS


@pytest.mark.parametrize("stop", ["than", "\n", " ", "ks. A"])
def test_stop_strings_end_the_text_before_them(vendor, backend, stop):
    vendor.wire.says = "Fine, thanks. And\nyou?"
    params = SamplingParams(max_new_tokens=20, stop=(stop, "never"))
    expected = vendor.wire.says.split(stop)[0]
    whole = backend.generate(PROMPT, params)
    assert whole.text == expected
    assert whole.meta_info["finish_reason"]["type"] == "stop"
    texts = [completion.text for completion in backend.stream(PROMPT, params)]
    assert texts[-1] == expected
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))


def test_more_stop_strings_than_the_vendor_takes(vendor, backend):
    never = tuple(f"never {number}" for number in range(12))
    assert (
        backend.generate(PROMPT, SamplingParams(stop=(*never, ". And"), max_new_tokens=20)).text
        == "Fine, thanks"
    )


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_error_is_met_by_another_attempt(vendor, backend, status, caplog):
    vendor.wire.faults += [Fault(status, "slow down", SLOW_DOWN), None] * 2
    assert backend.generate(PROMPT, SamplingParams()).text == WORDS
    *_, last = backend.stream(PROMPT, SamplingParams())
    assert last.text == WORDS
    assert len(vendor.wire.asked) == 4
    ours = [record.getMessage() for record in caplog.records if record.name == "sgl_lang"]
    assert len(ours) == 2
    assert f"answered {status}" in ours[0]
    assert "slow down" in ours[0]
    assert "trying again in 0.0 s" in ours[0]


def test_attempts_end_with_the_vendors_words(vendor, quick):
    vendor.wire.faults += [Fault(503, "quite full")] * 3
    with (
        vendor.make(max_retries=2) as backend,
        pytest.raises(BackendError, match=r"quite full.*tried 3 times") as raised,
    ):
        backend.generate(PROMPT, SamplingParams())
    assert raised.value.status == 503
    assert len(vendor.wire.asked) == 3


@pytest.mark.parametrize(("status", "words"), [(400, "not like that"), (404, "no such model")])
def test_a_lasting_error_is_not_repeated(vendor, backend, status, words):
    vendor.wire.faults.append(Fault(status, words))
    with pytest.raises(BackendError, match=words) as raised:
        backend.generate(PROMPT, SamplingParams())
    assert raised.value.status == status
    assert len(vendor.wire.asked) == 1


def test_retry_after_is_honoured(vendor, backend):
    if vendor.name != "openai":
        pytest.skip("it takes a second, and the pause is the same for all; see the abort of one below")
    vendor.wire.faults += [Fault(429, headers={"Retry-After": "1"}), None]
    begin = time.monotonic()
    assert backend.generate(PROMPT, SamplingParams()).text == WORDS
    assert time.monotonic() - begin >= 1


def test_a_wait_that_is_too_long_is_refused(vendor):
    later = formatdate(time.time() + 100, usegmt=True)
    vendor.wire.faults += [
        Fault(429, headers={"Retry-After": "61"}),
        Fault(429, headers={"Retry-After": later}),
    ]
    with vendor.make() as backend:
        with pytest.raises(BackendError, match="asks to wait 61 s; max_wait=60 allows less") as raised:
            backend.generate(PROMPT, SamplingParams())
        assert (raised.value.status, raised.value.retry_after) == (429, 61)
        with pytest.raises(BackendError, match=r"asks to wait (100|99) s"):
            backend.generate(PROMPT, SamplingParams())
    assert len(vendor.wire.asked) == 2


def test_lost_connections_are_made_anew(vendor, backend, quick):
    vendor.wire.faults += [Fault(), None, Fault(), None]
    assert backend.generate(PROMPT, SamplingParams()).text == WORDS
    assert [completion.text for completion in backend.stream(PROMPT, SamplingParams())][-1] == WORDS
    assert len(vendor.wire.asked) == 4


def test_nobody_there(vendor, quick):
    url = "http://127.0.0.1:9"
    where = {"azure_endpoint": url} if vendor.name == "azure" else {"base_url": url}
    with (
        vendor.make(max_retries=1, **where) as backend,
        pytest.raises(BackendError, match="tried 2 times") as raised,
    ):
        backend.generate(PROMPT, SamplingParams())
    assert "onnect" in str(raised.value)


def test_silence_is_a_passing_error(vendor, quick):
    vendor.wire.faults += [Fault(wait=True), None]
    with vendor.make(timeout=0.3) as backend:
        assert backend.generate(PROMPT, SamplingParams()).text == WORDS
    assert len(vendor.wire.asked) == 2


def test_a_stream_that_has_begun_is_not_begun_anew(vendor, backend):
    vendor.wire.faults += [Fault(after=2), Fault(500, "out of order", after=2)]
    for words in (r"broke off|in the middle|Connection error", "out of order"):
        texts = []
        with pytest.raises(BackendError, match=words):
            for completion in backend.stream(PROMPT, SamplingParams()):
                texts.append(completion.text)
        assert "Fine, thanks. ".startswith(texts[-1])  # a client may read ahead of the break
    assert len(vendor.wire.asked) == 2


def test_a_break_is_nothing_to_who_has_seen_nothing(vendor, backend, quick):
    """A blank stop string makes a stream of a whole answer; it is still whole to the caller."""
    vendor.wire.faults += [Fault(after=2), None]
    never = tuple(f"never {number}" for number in range(12))
    assert backend.generate(PROMPT, SamplingParams(stop=(*never, "\n"))).text == WORDS
    assert len(vendor.wire.asked) == 2


def test_a_stream_that_fails_at_once_is_begun_anew(vendor, backend, quick):
    vendor.wire.faults += [Fault(500, "out of order", after=0), None]
    assert [completion.text for completion in backend.stream(PROMPT, SamplingParams())][-1] == WORDS
    assert len(vendor.wire.asked) == 2


def test_an_answer_that_is_none(vendor):
    vendor.wire.faults += [Fault(200, raw=b"<html>welcome</html>")] * 10
    with (
        vendor.make(max_retries=0) as impatient,
        pytest.raises(BackendError, match=r"welcome|Expecting value"),
    ):
        impatient.generate(PROMPT, SamplingParams())


@pytest.mark.parametrize("body", ["{}", "[]", "null"])
def test_json_that_is_no_answer(vendor, body):
    vendor.wire.faults += [Fault(200, raw=body.encode())] * 2
    with vendor.make(max_retries=0) as impatient:
        with pytest.raises(BackendError):
            impatient.generate(PROMPT, SamplingParams())
        with pytest.raises(BackendError):
            list(impatient.stream(PROMPT, SamplingParams()))


def test_an_abort_frees_caller_and_connection(vendor, backend):
    for streaming in (False, True):
        vendor.wire.faults.append(Fault(wait=True))
        vendor.wire.waiting.clear()
        vendor.wire.left.clear()
        raised = []

        def ask(streaming=streaming, raised=raised):
            try:
                if streaming:
                    list(backend.stream(PROMPT, SamplingParams()))
                else:
                    backend.generate(PROMPT, SamplingParams())
            except BackendError as error:
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert vendor.wire.waiting.wait(10)
        backend.abort("a-rid")
        thread.join(10)
        assert not thread.is_alive()
        assert "given up" in str(raised[0])
        assert vendor.wire.left.wait(10)
    backend.abort("unknown")


def test_an_abort_ends_the_pause_between_attempts(vendor, backend, caplog):
    vendor.wire.faults.append(Fault(429, headers={"Retry-After": "50"}))
    timer = threading.Thread(target=_abort_when_pausing, args=(backend, caplog))
    timer.start()
    with pytest.raises(BackendError, match="given up"):
        backend.generate(PROMPT, SamplingParams())
    timer.join()
    assert "trying again in 50.0 s" in caplog.text


def _abort_when_pausing(backend, caplog):
    while not any("trying again" in record.getMessage() for record in caplog.records):
        time.sleep(0.01)
    time.sleep(0.05)
    backend.abort("a-rid")


def test_closing_a_stream_gives_up_the_rest(vendor, backend):
    vendor.wire.faults.append(Fault(after=2, wait=True))
    stream = backend.stream(PROMPT, SamplingParams())
    assert next(stream).text
    stream.close()
    assert vendor.wire.left.wait(10)


def test_many_at_once(vendor, backend):
    vendor.wire.says = lambda body: "It is " + str(body).split("number ")[1][:2] + "."
    states = [chat.run(f"number {number}", backend=backend, stream=True) for number in range(10, 22)]
    assert [state["answer"] for state in states] == [f"It is {number}." for number in range(10, 22)]


def test_threads_and_connections_end_with_the_backend(vendor):
    before = set(threading.enumerate())
    with vendor.make() as backend:
        backend.generate(PROMPT, SamplingParams())
        assert _calling(before)
    assert not _calling(before)
    with pytest.raises(ProgramError, match="was closed"):
        backend.generate(PROMPT, SamplingParams())
    backend.close()
    forgotten = vendor.make()
    assert not _calling(before)  # nothing is started before it is needed
    forgotten.close()


def _calling(before):
    return [
        thread for thread in threading.enumerate() if thread.name.endswith(" calls") and thread not in before
    ]


def test_the_key_appears_nowhere(vendor, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    server_echoes = f"wrong key {vendor.key}, sent as Bearer {vendor.key}"
    vendor.wire.faults += [Fault(401, server_echoes), Fault(429, server_echoes, SLOW_DOWN), None]
    with vendor.make() as backend:
        with pytest.raises(BackendError, match="wrong key <key>") as raised:
            backend.generate(PROMPT, SamplingParams())
        assert backend.generate(PROMPT, SamplingParams()).text == WORDS
        told = [repr(backend), str(backend), repr(vars(raised.value))]
    told.append("".join(traceback.format_exception(raised.value)))
    told += [
        record.getMessage() + repr(record.args) for record in caplog.records if record.name == "sgl_lang"
    ]
    told.append(caplog.text if vendor.name != "litellm" else "")  # litellm's debugging is litellm's
    told += capfd.readouterr()
    assert vendor.key not in "".join(told)
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None


def test_a_password_in_the_url_is_refused(vendor):
    where = "azure_endpoint" if vendor.name == "azure" else "base_url"
    with pytest.raises(ProgramError, match="must not hold a name and password") as raised:
        vendor.make(**{where: "http://me:hunter2@127.0.0.1/v1"})
    assert "hunter2" not in str(raised.value)
    with pytest.raises(ProgramError, match="must begin with http"):
        vendor.make(**{where: "127.0.0.1:1"})
    with pytest.raises(ProgramError, match="max_retries must be 0 or more"):
        vendor.make(max_retries=-1)


def test_a_forgotten_backend_ends_its_thread(vendor):
    if vendor.name != "openai":
        pytest.skip("the thread is the same for all")
    before = set(threading.enumerate())
    backend = vendor.make()
    backend.generate(PROMPT, SamplingParams())
    (thread,) = _calling(before)
    del backend
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
