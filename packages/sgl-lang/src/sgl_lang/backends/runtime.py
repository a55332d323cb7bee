# SPDX-License-Identifier: Apache-2.0
"""`RuntimeEndpoint`: a server started with `sgl-runtime serve`, over HTTP.

The server owns the model's chat markup and reports it once; nothing is asked before the first program needs
it. Whatever goes wrong on the way becomes a BackendError with the server's own words.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from types import TracebackType
from typing import Any

import httpx

from sgl_lang.backends import _runtime
from sgl_lang.backends._failure import retry_after
from sgl_lang.backends._sse import events
from sgl_lang.backends.protocol import Backend, Capabilities, Completion, Prompt, Scores
from sgl_lang.chat import ChatTemplate, Markup, guess_template, named_template
from sgl_lang.errors import BackendError, ProgramError, UnsupportedByBackend
from sgl_lang.sampling import SamplingParams

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class RuntimeEndpoint(Backend):
    """A backend that generates on an sgl-runtime server.

    Args:
        base_url: where the server is, such as "http://localhost:30000".
        api_key: the server's `--api-key`, sent as a bearer token.
        client: the HTTP client to use, with its own time limits, certificates and proxies. It stays the
            caller's to close. The default waits ten seconds for a connection and without limit for an answer.
        chat_template: the name of a built-in template or a `ChatTemplate`, in place of the model's own.

    Raises ProgramError for a URL or template name that cannot be right. No request is made here: the first
    generation finds out whether there is a server, with a BackendError if there is none.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        client: httpx.Client | None = None,
        *,
        chat_template: str | ChatTemplate | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ProgramError(f"base_url must begin with http:// or https://, unlike {base_url!r}")
        self.base_url = base_url.rstrip("/")
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._owns_client = client is None
        self._client = _client() if client is None else client
        self._template = named_template(chat_template) if isinstance(chat_template, str) else chat_template
        self._template_lock = threading.Lock()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    @property
    def chat_template(self) -> ChatTemplate:
        """The model's markup: what the user chose, else what the server reports, else guessed by name."""
        with self._template_lock:
            if self._template is None:
                self._template = self._model_template(self.get_model_info())
            return self._template

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        if params.stop_regex:
            return self._until(prompt, params, params.stop_regex)
        answer = self._post("/generate", _runtime.generation(prompt, params, stream=False))
        first, *others = map(self._completion, answer if isinstance(answer, list) else [answer])
        return replace(first, others=tuple(others)) if others else first

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        if params.stop_regex:  # what a pattern cuts off is known at the end only
            yield self._until(prompt, params, params.stop_regex)
            return
        done = False
        samples: dict[int, Completion] = {0: Completion("")}
        with (
            self._talking(),
            self._client.stream(
                "POST",
                f"{self.base_url}/generate",
                json=_runtime.generation(prompt, params, stream=True),
                headers=self._headers,
            ) as response,
        ):
            if not response.is_success:
                response.read()
                self._answer(response)
            # Read beyond [DONE] to the end of the body, or the connection cannot serve another request.
            for data in events(response.iter_bytes()):
                if data == "[DONE]":
                    done = True
                else:
                    event = self._json(data)
                    samples[event.get("index", 0) if isinstance(event, dict) else 0] = self._completion(event)
                    yield _joined(samples)
        if not done:
            raise BackendError(f"the server at {self.base_url} ended its answer in the middle")

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        texts = [prompt.text, *(prompt.text + option for option in options), ""]
        tokens = self._object(self._post("/tokenize", {"prompt": texts}))["tokens"]
        before, after, nothing = tokens[0], tokens[1:-1], tokens[-1]
        start = _runtime.boundary(before, after)
        answers = self._post("/generate", _runtime.scoring(prompt, after, start))
        alone = None
        if unconditional:
            bare = [nothing + ids[start:] for ids in after]
            alone = self._post("/generate", _runtime.scoring(Prompt(prompt.rid, ""), bare, len(nothing)))
        for answer in (*answers, *(alone or ())):
            self._completion(answer)  # raises what went wrong with one of them
        return _runtime.scores(answers, alone)

    def warm(self, prompt: Prompt) -> None:
        self._post("/generate", _runtime.generation(prompt, SamplingParams(max_new_tokens=0), stream=False))

    def abort(self, rid: str) -> None:
        with suppress(httpx.HTTPError, RuntimeError):  # RuntimeError: the client was closed meanwhile
            self._client.post(
                f"{self.base_url}/abort_request", json={"rid": rid}, headers=self._headers, timeout=1.0
            )

    def get_model_info(self) -> dict[str, Any]:
        """What the server says of its model: "model_path", "is_generation", "chat_template"."""
        return self._object(self._json(self._get("/get_model_info").text))

    def get_server_args(self) -> dict[str, Any]:
        """The arguments with which the server was started."""
        return self._object(self._json(self._get("/get_server_args").text))

    def flush_cache(self) -> None:
        """Empty the server's prefix cache. Raises BackendError if it will not, as requests are running."""
        self._get("/flush_cache")

    def close(self) -> None:
        """Close the connections, unless the client is the caller's."""
        if self._owns_client:
            self._client.close()

    def __enter__(self) -> RuntimeEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- talking to the server

    def _get(self, path: str) -> httpx.Response:
        with self._talking():
            response = self._client.get(f"{self.base_url}{path}", headers=self._headers, timeout=30.0)
        return self._answer(response)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        with self._talking():
            response = self._client.post(f"{self.base_url}{path}", json=body, headers=self._headers)
        return self._json(self._answer(response).text)

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """Turn what can go wrong on the wire into BackendError; the client's own frames explain nothing."""
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            url = httpx.URL(self.base_url)
            host = "" if url.host in _LOOPBACK else " --host 0.0.0.0"
            port = url.port or (443 if url.scheme == "https" else 80)
            raise BackendError(
                f"no server answers at {self.base_url} ({error}); "
                f"start one there with: sgl-runtime serve{host} --port {port}"
            ) from None
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise BackendError(f"the connection to the server at {self.base_url} failed: {what}") from None

    def _answer(self, response: httpx.Response) -> httpx.Response:
        """The response, if it is a success; else what the server says is raised."""
        if response.is_success:
            return response
        try:
            message = _message(response.json())
        except ValueError:
            message = response.text[:500] or response.reason_phrase
        if response.status_code == 401:
            message += "; pass the server's key as RuntimeEndpoint(..., api_key=...)"
        status = response.status_code
        raise BackendError(
            f"the server at {self.base_url} answered {status}: {message}",
            status=status,
            retry_after=retry_after(response.headers),
        )

    def _completion(self, answer: Any) -> Completion:
        body = self._object(answer)
        if "error" in body:
            raise BackendError(f"the server at {self.base_url} failed: {_message(body)}")
        if not isinstance(body.get("text"), str):
            raise BackendError(f"the server at {self.base_url} answered without a text: {str(body)[:200]}")
        meta_info = body.get("meta_info") or {}
        finish = meta_info.get("finish_reason")
        if isinstance(finish, dict) and finish.get("type") == "abort":
            raise BackendError(f"the server at {self.base_url} aborted the request: {finish.get('message')}")
        return Completion(text=body["text"], meta_info=meta_info)

    def _until(self, prompt: Prompt, params: SamplingParams, patterns: Sequence[str]) -> Completion:
        """The answer before the first match of a pattern; the server, which knows none, stops there."""
        if (params.n or 1) > 1:
            raise UnsupportedByBackend("RuntimeEndpoint does not take n together with stop_regex; drop one")
        completion = Completion("")
        with closing(self.stream(prompt, replace(params, stop_regex=None))) as completions:
            for completion in completions:
                if (found := _runtime.first_match(completion.text, patterns)) is not None:
                    finish = {"type": "stop", "matched": found.group()}
                    told = {**completion.meta_info, "finish_reason": finish}
                    return Completion(completion.text[: found.start()], told)
        return completion

    def _json(self, data: str) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            return self._object(data)

    def _object(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            said = str(body)[:200]
            raise BackendError(f"{self.base_url} does not answer like an sgl-runtime server: {said}")
        return body

    def _model_template(self, model: Mapping[str, Any]) -> ChatTemplate:
        reported = model.get("chat_template")
        if reported is None:
            return guess_template(str(model.get("model_path")))
        try:
            return ChatTemplate(
                name=str(model["model_path"]),
                roles={role: Markup(begin, end) for role, (begin, end) in reported["roles"].items()},
                default_system=reported["default_system"],
                stop=tuple(reported["stop"]),
                image_token=reported.get("image_token") or "<image>",
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise BackendError(
                f"the server at {self.base_url} reports a chat template of another version: {reported!r}; "
                "choose one with RuntimeEndpoint(..., chat_template=...)"
            ) from None


def _client() -> httpx.Client:
    """A client with a connection per generation under way, and none through a proxy to this very machine."""
    return httpx.Client(
        timeout=httpx.Timeout(None, connect=10.0),
        # Servers drop idle connections after five seconds or more; be sooner: never write to a closed one.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=3.0),
        mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
    )


def _joined(samples: Mapping[int, Completion]) -> Completion:
    """The first sample, with the others as far as they have come."""
    return replace(samples[0], others=tuple(samples[index] for index in sorted(samples) if index))


def _message(body: Any) -> str:
    """The sentence inside an error of ours, {"error": {"message": ...}}, or of another server."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return str(error.get("message", error) if isinstance(error, dict) else error)
