# SPDX-License-Identifier: Apache-2.0
"""`Wire`: HTTP with one sgl-runtime server. A call that meets trouble that may pass is repeated.

It knows where the server is and how it refuses, not what it is asked. Whatever goes wrong for good becomes a
BackendError with the server's own words; the key is in none of them.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import httpx

from sgl_lang.backends._failure import Failure, Patience, answered, redact
from sgl_lang.backends._sse import events
from sgl_lang.backends._url import check_url
from sgl_lang.errors import BackendError, ProgramError

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PASSING = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError)
_BUSY = 409  # the server is doing something else, and will be for long


class Wire:
    """The way to one server, for several threads at once; the arguments are those of `RuntimeEndpoint`."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        verify: bool | str | os.PathLike[str] | ssl.SSLContext | None,
        client: httpx.Client | None,
        max_retries: int,
        max_wait: float,
    ) -> None:
        check_url(base_url, instead="api_key, or a client with auth=...")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise ProgramError("api_key must be printable ASCII: it is sent in a header")
        if client is not None and verify is not None:
            raise ProgramError("verify and client cannot both be passed: a client has its own verify")
        self.base_url = base_url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._patience = Patience(max_retries, max_wait, () if api_key is None else (api_key,))
        self._owns_client = client is None
        self._client = _client(_trust(verify)) if client is None else client
        self._urls: dict[str, httpx.URL] = {}  # by path; to parse one takes long
        self._under_way: dict[str, bool] = {}  # rid -> whether somebody still wants the answer
        self._given_up = threading.Condition()

    def get(self, path: str) -> bytes:
        """The body of the answer."""
        return self._ask("GET", path, timeout=30.0)

    def post(self, path: str, body: Mapping[str, Any], rid: str) -> Any:
        """What the server answers, `parsed`. `rid` names the call for `give_up`."""
        self._under_way[rid] = True
        try:
            return parsed(self._ask("POST", path, rid=rid, json=body))
        finally:
            self._under_way.pop(rid, None)

    def events(self, path: str, body: Mapping[str, Any], rid: str) -> Generator[Any, None, None]:
        """The data of each event of an answer that is a stream, like `post`.

        What has begun to arrive is not begun anew.
        """
        attempt, begun = 0, False
        self._under_way[rid] = True
        try:
            while True:
                self._check_open()
                try:
                    with closing(self._stream(path, body)) as arriving:
                        for event in arriving:
                            begun = True
                            yield event
                    return
                except (_Failed, httpx.HTTPError) as error:
                    failure = self._read(error, rid)
                self._wait(replace(failure, again=failure.again and not begun), attempt, rid)
                attempt += 1
        finally:
            self._under_way.pop(rid, None)

    def give_up(self, rid: str) -> None:
        """Nobody wants the answer to this call any more; tells the server. Never raises."""
        with self._given_up:
            if rid in self._under_way:
                self._under_way[rid] = False
                self._given_up.notify_all()
        self._forget(rid)

    def close(self) -> None:
        """Close the connections, unless the client is the caller's."""
        if self._owns_client:
            self._client.close()
            with self._given_up:
                self._given_up.notify_all()

    def error(self, what: str) -> BackendError:
        """The error for an answer that is not what was asked for; `what` is said of the server."""
        return BackendError(redact(f"{self._who} {what}", self._patience.secrets))

    # -- attempts

    def _ask(self, method: str, path: str, *, rid: str = "", **options: Any) -> bytes:
        attempt = 0
        while True:
            self._check_open()
            try:
                response = self._client.request(method, self._url(path), headers=self._headers, **options)
                return self._answer(response).content
            except (_Failed, httpx.HTTPError) as error:
                failure = self._read(error, rid)
            self._wait(failure, attempt, rid)
            attempt += 1

    def _stream(self, path: str, body: Mapping[str, Any]) -> Generator[Any, None, None]:
        done = False
        url = self._url(path)
        with self._client.stream("POST", url, json=body, headers=self._headers) as response:
            if not response.is_success:
                response.read()
            # Read beyond [DONE] to the end of the body, or the connection cannot serve another request.
            for data in events(self._answer(response).iter_bytes()):
                if data == "[DONE]":
                    done = True
                else:
                    yield parsed(data)
        if not done:
            raise _Failed(Failure(f"{self._who} ended its answer in the middle", again=True))

    def _wait(self, failure: Failure, attempt: int, rid: str) -> None:
        """Wait until the next attempt. Raises BackendError when there is none, or nobody wants it."""
        seconds = self._patience.pause(failure, attempt)
        with self._given_up:
            self._given_up.wait_for(lambda: self._is_over(rid), seconds)
        if not self._under_way.get(rid, True):
            raise BackendError(f"{self._who}: the generation was given up")

    def _is_over(self, rid: str) -> bool:
        return self._client.is_closed or not self._under_way.get(rid, True)

    def _forget(self, rid: str) -> None:
        with suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
            self._client.post(
                self._url("/abort_request"), json={"rid": rid}, headers=self._headers, timeout=1.0
            )

    def _check_open(self) -> None:
        if self._client.is_closed:
            raise ProgramError(f"the connection to {self.base_url} was closed; make a new RuntimeEndpoint")

    def _url(self, path: str) -> httpx.URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = httpx.URL(self.base_url + path)
        return url

    # -- what went wrong

    @property
    def _who(self) -> str:
        return f"the server at {self.base_url}"

    def _answer(self, response: httpx.Response) -> httpx.Response:
        """The response, if it is a success; else what the server says is raised."""
        if response.is_success:
            return response
        try:
            message = message_of(response.json())
        except ValueError:
            message = response.text[:500] or response.reason_phrase
        if response.status_code == 401:
            message += "; pass the server's key as RuntimeEndpoint(..., api_key=...)"
        failure = answered(response.status_code, message, response.headers)
        again = failure.again and response.status_code != _BUSY
        raise _Failed(replace(failure, message=f"{self._who} {failure.message}", again=again))

    def _read(self, error: _Failed | httpx.HTTPError, rid: str) -> Failure:
        """What the error of an attempt means."""
        if isinstance(error, _Failed):
            return error.failure
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Failure(
                f"the certificate of {self._who} is not trusted ({error}); "
                'pass the file of its authority as RuntimeEndpoint(..., verify="ca.pem")'
            )
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            url = httpx.URL(self.base_url)
            host = "" if url.host in _LOOPBACK else " --host 0.0.0.0"
            port = url.port or (443 if url.scheme == "https" else 80)
            return Failure(
                f"no server answers at {self.base_url} ({error}); "
                f"start one there with: sgl-runtime serve{host} --port {port}",
                again=True,
            )
        if rid:
            self._forget(rid)  # it may still be at it, and takes no other call of this name meanwhile
        what = str(error) or type(error).__name__
        return Failure(f"the connection to {self._who} failed: {what}", again=isinstance(error, _PASSING))


class _Failed(Exception):
    """An attempt was answered, but not with success."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def parsed(data: str | bytes) -> Any:
    """JSON as a value; what is none as a str."""
    try:
        return json.loads(data)
    except ValueError:
        return data if isinstance(data, str) else data.decode(errors="replace")


def message_of(body: Any) -> str:
    """The sentence inside an error of ours, {"error": {"message": ...}}, or of another server."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)


def _client(verify: bool | ssl.SSLContext) -> httpx.Client:
    """A client with a connection per generation under way, and none through a proxy to this very machine."""
    return httpx.Client(
        verify=verify,
        timeout=httpx.Timeout(None, connect=10.0),
        # Servers drop idle connections after five seconds or more; be sooner: never write to a closed one.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=3.0),
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
    )


def _trust(verify: bool | str | os.PathLike[str] | ssl.SSLContext | None) -> bool | ssl.SSLContext:
    """Whose certificates are believed. ProgramError for a path that holds no certificates."""
    if verify is None:
        return True
    if isinstance(verify, bool | ssl.SSLContext):
        return verify
    try:
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=os.fspath(verify))
        return ssl.create_default_context(cafile=os.fspath(verify))
    except (OSError, TypeError) as error:  # an ssl.SSLError is an OSError
        raise ProgramError(
            f"verify must be True, False, an ssl.SSLContext, or a file or folder of certificates: {error}"
        ) from None
