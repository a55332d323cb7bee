# SPDX-License-Identifier: Apache-2.0
"""The way to a server of ours: what is repeated and what is not, whom it trusts, and that it tells no key."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import sgl_lang as sgl
from sgl_lang import BackendError, ProgramError, Prompt, RuntimeEndpoint, SamplingParams
from sgl_lang.backends import _failure

KEY = "not-to-be-told-0123456789"
PROMPT = Prompt("a-rid", "hi")
FINE = {"text": "fine", "meta_info": {}}
AT_ONCE = {"Retry-After": "0"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are a hundredth of what they are."""
    monkeypatch.setattr(_failure, "_FIRST_S", _failure._FIRST_S / 100)


class Scene:
    """An endpoint whose requests meet one fault after another, and then a server that is fine."""

    def __init__(self, *faults: Any, **options: Any) -> None:
        self.faults = list(faults)
        self.asked: list[str] = []
        client = httpx.Client(transport=httpx.MockTransport(self._handle))
        self.endpoint = RuntimeEndpoint("http://server:30000", client=client, **options)

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/abort_request":
            return httpx.Response(200)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if isinstance(fault, httpx.Response):
            return fault
        if json.loads(request.content or "{}").get("stream"):
            return httpx.Response(200, text=f"data: {json.dumps(FINE)}\n\ndata: [DONE]\n\n")
        return httpx.Response(200, json=FINE)


def whole(endpoint: RuntimeEndpoint) -> str:
    return endpoint.generate(PROMPT, SamplingParams()).text


def streamed(endpoint: RuntimeEndpoint) -> str:
    return list(endpoint.stream(PROMPT, SamplingParams()))[-1].text


def refusal(status: int, words: str = "slow down", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": words}}, headers=headers)


both = pytest.mark.parametrize("ask", [whole, streamed])


@both
@pytest.mark.parametrize(
    "fault",
    [
        *(refusal(status) for status in (408, 429, 500, 502, 503, 504)),
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("timed out"),
        httpx.ReadTimeout("timed out"),
        httpx.ReadError("reset"),
        httpx.RemoteProtocolError("disconnected"),
    ],
    ids=repr,
)
def test_what_may_pass_is_met_by_another_attempt(
    ask: Callable[[RuntimeEndpoint], str], fault: Any, quick: None, caplog: Any
) -> None:
    scene = Scene(fault, fault)
    assert ask(scene.endpoint) == "fine"
    assert scene.asked.count("/generate") == 3
    ours = [record.getMessage() for record in caplog.records if record.name == "sgl_lang"]
    assert len(ours) == 2
    assert all("http://server:30000" in message and "trying again in" in message for message in ours)


def test_a_call_that_may_still_run_is_taken_back_before_it_is_made_again(quick: None) -> None:
    scene = Scene(httpx.ReadTimeout("timed out"), httpx.ConnectError("refused"), refusal(503))
    assert whole(scene.endpoint) == "fine"
    assert scene.asked == ["/generate", "/abort_request", "/generate", "/generate", "/generate"]


@both
@pytest.mark.parametrize("fault", [refusal(400), refusal(409), httpx.LocalProtocolError("so not")], ids=repr)
def test_what_lasts_is_not_repeated(ask: Callable[[RuntimeEndpoint], str], fault: Any) -> None:
    scene = Scene(fault)
    with pytest.raises(BackendError, match=r"slow down|so not"):
        ask(scene.endpoint)
    assert scene.asked.count("/generate") == 1


def test_every_kind_of_call_is_repeated(quick: None) -> None:
    info = httpx.Response(200, json={"model_path": "m"})
    scene = Scene(refusal(503), info, refusal(503), None, refusal(503))
    assert scene.endpoint.get_model_info() == {"model_path": "m"}
    scene.endpoint.flush_cache()
    scene.endpoint.warm(PROMPT)
    assert scene.asked == ["/get_model_info"] * 2 + ["/flush_cache"] * 2 + ["/generate"] * 2


def test_attempts_end(quick: None) -> None:
    scene = Scene(*[refusal(503, "quite full")] * 3, max_retries=2)
    with pytest.raises(BackendError, match=r"answered 503: quite full \(tried 3 times\)") as raised:
        whole(scene.endpoint)
    assert (raised.value.status, len(scene.asked)) == (503, 3)
    for number, kind in ((-1, ProgramError), (0, BackendError)):
        with pytest.raises(kind):
            whole(Scene(refusal(503), max_retries=number).endpoint)


def test_the_server_says_when(caplog: Any) -> None:
    scene = Scene(refusal(429, **{"Retry-After": "0.3"}), refusal(503, **{"retry-after-ms": "1"}))
    begin = time.monotonic()
    assert whole(scene.endpoint) == "fine"
    assert time.monotonic() - begin >= 0.3
    assert ["0.3 s" in caplog.messages[-2], "0.0 s" in caplog.messages[-1]] == [True, True]
    patient = Scene(refusal(429, **{"Retry-After": "61"}))
    with pytest.raises(BackendError, match="asks to wait 61 s; max_wait=60 allows less") as raised:
        whole(patient.endpoint)
    assert (raised.value.retry_after, len(patient.asked)) == (61, 1)


class Broken(httpx.SyncByteStream):
    """A body that breaks off after these events."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts

    def __iter__(self) -> Iterator[bytes]:
        for text in self._texts:
            yield f"data: {json.dumps({'text': text})}\n\n".encode()
        raise httpx.ReadError("reset")


@pytest.mark.parametrize("how", ["broken", "short"])
def test_a_stream_that_has_begun_is_not_begun_anew(quick: None, how: str) -> None:
    def answer(*texts: str) -> httpx.Response:
        events = "".join(f"data: {json.dumps({'text': text})}\n\n" for text in texts)
        return httpx.Response(200, **{"stream": Broken(*texts)} if how == "broken" else {"text": events})

    scene = Scene(answer("fi"))
    texts = []
    with pytest.raises(BackendError, match=r"reset|in the middle"):
        for completion in scene.endpoint.stream(PROMPT, SamplingParams()):
            texts.append(completion.text)
    assert (texts, scene.asked.count("/generate")) == (["fi"], 1)
    scene = Scene(answer(), answer())
    assert streamed(scene.endpoint) == "fine", "of these nothing had arrived"
    assert scene.asked.count("/generate") == 3


@both
def test_giving_up_ends_the_pause(ask: Callable[[RuntimeEndpoint], str], caplog: Any) -> None:
    scene = Scene(refusal(503, **{"Retry-After": "50"}))
    aborting = threading.Thread(target=_when_pausing, args=(caplog, lambda: scene.endpoint.abort("a-rid")))
    aborting.start()
    with pytest.raises(BackendError, match="given up"):
        ask(scene.endpoint)
    aborting.join()
    assert scene.asked == ["/generate", "/abort_request"]


def test_a_program_that_ends_leaves_no_pause_behind(caplog: Any) -> None:
    scene = Scene(refusal(503, **{"Retry-After": "50"}))

    @sgl.function
    def program(s: Any) -> None:
        s += "hi" + sgl.gen("a")
        _when_pausing(caplog, lambda: None)
        raise LookupError("enough")

    with pytest.raises(LookupError):
        program.run(backend=scene.endpoint)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sgl program")]


def test_closing_ends_the_pause(caplog: Any) -> None:
    endpoint = RuntimeEndpoint("http://127.0.0.1:9", max_wait=50.0)
    endpoint._wire._patience = _Slow(5, 50.0)
    closing = threading.Thread(target=_when_pausing, args=(caplog, endpoint.close))
    closing.start()
    with pytest.raises(ProgramError, match="was closed; make a new RuntimeEndpoint"):
        whole(endpoint)
    closing.join()
    for ask in (whole, streamed):
        with pytest.raises(ProgramError, match="was closed"):
            ask(endpoint)


class _Slow(_failure.Patience):
    def pause(self, failure: _failure.Failure, attempt: int) -> float:
        super().pause(failure, attempt)
        return 50.0


def _when_pausing(caplog: Any, act: Callable[[], None]) -> None:
    while "trying again" not in caplog.text:
        time.sleep(0.005)
    act()


@both
def test_the_key_is_told_to_the_server_alone(ask: Callable[[RuntimeEndpoint], str], caplog: Any) -> None:
    caplog.set_level(logging.DEBUG)
    echo = f"wrong key {KEY}, sent as Bearer {KEY}"
    faults = [refusal(429, echo, **AT_ONCE), refusal(401, echo), httpx.ReadError(echo)]
    scene = Scene(*faults, api_key=KEY, max_retries=1)
    told = [repr(scene.endpoint), str(scene.endpoint)]
    for words in ("wrong key <key>.*; pass the server's key", "failed: wrong key <key>"):
        with pytest.raises(BackendError, match=words) as raised:
            ask(scene.endpoint)
            ask(Scene(httpx.ReadError(echo), api_key=KEY, max_retries=0).endpoint)
        told += ["".join(traceback.format_exception(raised.value)), repr(vars(raised.value))]
        assert raised.value.__context__ is None and raised.value.__cause__ is None
        scene = Scene(api_key=KEY)
    broken = httpx.Response(200, text=f'data: {{"error": "{echo}"}}\n\n', headers={})
    with pytest.raises(BackendError, match="<key>"):
        streamed(Scene(broken, api_key=KEY).endpoint)
    assert KEY not in "".join([*told, caplog.text])


def test_what_cannot_be_a_key_or_an_address() -> None:
    for key in ("a\nb", "schlüssel", "a\x00"):
        with pytest.raises(ProgramError, match="api_key must be printable ASCII") as raised:
            RuntimeEndpoint("http://x", key)
        assert key not in str(raised.value)
    with pytest.raises(ProgramError, match="must not hold a name and password; pass api_key") as raised:
        RuntimeEndpoint("http://me:hunter2@server")
    assert "hunter2" not in str(raised.value)


# -- certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and a certificate for this machine, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, encryption_algorithm=serialization.NoEncryption()
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(secret + signed.public_bytes(pem))
    return file


class _Fine(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(FINE).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Silent."""


class _Encrypted(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that do not trust us leave."""


@pytest.fixture(scope="module")
def encrypted(certificate: Path) -> Iterator[str]:
    server = _Encrypted(("127.0.0.1", 0), _Fine)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_verify_says_whose_certificates_are_believed(encrypted: str, certificate: Path) -> None:
    context = ssl.create_default_context(cafile=certificate)
    for verify in (certificate, str(certificate), False, context):
        with RuntimeEndpoint(encrypted, None, verify) as endpoint:
            assert whole(endpoint) == "fine"
    for distrust in (None, True):
        with (
            RuntimeEndpoint(encrypted, verify=distrust) as endpoint,
            pytest.raises(BackendError, match=r'certificate of .* is not trusted .*verify="ca.pem"'),
        ):
            whole(endpoint)


def test_verify_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "none.pem").write_text("no certificate")
    for wrong in (str(tmp_path / "missing.pem"), tmp_path / "none.pem", 3):
        with pytest.raises(ProgramError, match="verify must be True, False"):
            RuntimeEndpoint("https://x", verify=wrong)  # type: ignore[arg-type]
    with httpx.Client() as client, pytest.raises(ProgramError, match="cannot both be passed"):
        RuntimeEndpoint("https://x", verify=False, client=client)
