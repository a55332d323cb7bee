# SPDX-License-Identifier: Apache-2.0
"""`RuntimeEndpoint`: a server started with `sgl-runtime serve`, over HTTP.

The server owns the model's chat markup and reports it once; nothing is asked before the first program needs
it. How its words travel is not known here, but in `_wire.py`.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Any
from uuid import uuid4

import httpx

from sgl_lang.backends import _runtime
from sgl_lang.backends._wire import Wire, message_of, parsed
from sgl_lang.backends.protocol import Backend, Capabilities, Completion, Prompt, Scores
from sgl_lang.chat import ChatTemplate, Markup, guess_template, named_template
from sgl_lang.errors import UnsupportedByBackend
from sgl_lang.sampling import SamplingParams


class RuntimeEndpoint(Backend):
    """A backend that generates on an sgl-runtime server.

    Args:
        base_url: where the server is, such as "http://localhost:30000".
        api_key: the server's `--api-key`, sent as a bearer token.
        verify: over https, whose certificates are believed: a file or folder of them, an `ssl.SSLContext`, or
            False for anybody's.
        client: the HTTP client to use, with its own time limits, certificates and proxies. It stays the
            caller's to close. The default waits ten seconds for a connection and without limit for an answer.
        chat_template: the name of a built-in template or a `ChatTemplate`, in place of the model's own.
        max_retries: how often a call is repeated that met 429, 5xx, a timeout or no connection. A stream that
            has begun is not begun anew.
        max_wait: the longest pause before that, in seconds, if the server asks for one.

    Raises ProgramError for what cannot be right. No request is made here: the first generation finds out
    whether there is a server, with a BackendError if there is none.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        verify: bool | str | os.PathLike[str] | ssl.SSLContext | None = None,
        *,
        client: httpx.Client | None = None,
        chat_template: str | ChatTemplate | None = None,
        max_retries: int = 5,
        max_wait: float = 60.0,
    ) -> None:
        self._wire = Wire(
            base_url, api_key, verify=verify, client=client, max_retries=max_retries, max_wait=max_wait
        )
        self.base_url = self._wire.base_url
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
        body = _runtime.generation(prompt, params, stream=False)
        answer = self._wire.post("/generate", body, prompt.rid)
        first, *others = map(self._completion, answer if isinstance(answer, list) else [answer])
        return replace(first, others=tuple(others)) if others else first

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        if params.stop_regex:  # what a pattern cuts off is known at the end only
            yield self._until(prompt, params, params.stop_regex)
            return
        body = _runtime.generation(prompt, params, stream=True)
        samples: dict[int, Completion] = {0: Completion("")}
        with closing(self._wire.events("/generate", body, prompt.rid)) as events:
            for event in events:
                samples[event.get("index", 0) if isinstance(event, dict) else 0] = self._completion(event)
                yield _joined(samples)

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        texts = [prompt.text, *(prompt.text + option for option in options), ""]
        tokens = self._object(self._wire.post("/tokenize", {"prompt": texts}, prompt.rid))["tokens"]
        before, after, nothing = tokens[0], tokens[1:-1], tokens[-1]
        start = _runtime.boundary(before, after)
        answers = self._wire.post("/generate", _runtime.scoring(prompt, after, start), prompt.rid)
        alone = None
        if unconditional:
            bare = [nothing + ids[start:] for ids in after]
            body = _runtime.scoring(Prompt(prompt.rid, ""), bare, len(nothing))
            alone = self._wire.post("/generate", body, prompt.rid)
        for answer in (*answers, *(alone or ())):
            self._completion(answer)  # raises what went wrong with one of them
        return _runtime.scores(answers, alone)

    def warm(self, prompt: Prompt) -> None:
        body = _runtime.generation(prompt, SamplingParams(max_new_tokens=0), stream=False)
        self._wire.post("/generate", body, prompt.rid)

    def abort(self, rid: str) -> None:
        self._wire.give_up(rid)

    def get_model_info(self) -> dict[str, Any]:
        """What the server says of its model: "model_path", "is_generation", "chat_template"."""
        return self._object(parsed(self._wire.get("/get_model_info")))

    def get_server_args(self) -> dict[str, Any]:
        """The arguments with which the server was started."""
        return self._object(parsed(self._wire.get("/get_server_args")))

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text, of a server whose model answers with vectors (`--is-embedding`, or an
        embedding model's). Raises BackendError if it generates text.
        """
        answer = self._wire.post("/encode", {"text": list(texts)}, uuid4().hex)
        try:
            return [each["embedding"] for each in answer]
        except (KeyError, TypeError):
            raise self._wire.error(f"answered without embeddings: {str(answer)[:200]}") from None

    def flush_cache(self) -> None:
        """Empty the server's prefix cache. Raises BackendError if it will not, as requests are running."""
        self._wire.get("/flush_cache")

    def close(self) -> None:
        """Close the connections, unless the client is the caller's."""
        self._wire.close()

    def __enter__(self) -> RuntimeEndpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # -- what the server says

    def _completion(self, answer: Any) -> Completion:
        body = self._object(answer)
        if "error" in body:
            raise self._wire.error(f"failed: {message_of(body)}")
        if not isinstance(body.get("text"), str):
            raise self._wire.error(f"answered without a text: {str(body)[:200]}")
        meta_info = body.get("meta_info") or {}
        finish = meta_info.get("finish_reason")
        if isinstance(finish, dict) and finish.get("type") == "abort":
            raise self._wire.error(f"aborted the request: {finish.get('message')}")
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

    def _object(self, body: Any) -> dict[str, Any]:
        if not isinstance(body, dict):
            raise self._wire.error(f"does not answer like an sgl-runtime server: {str(body)[:200]}")
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
            raise self._wire.error(
                f"reports a chat template of another version: {reported!r}; "
                "choose one with RuntimeEndpoint(..., chat_template=...)"
            ) from None


def _joined(samples: Mapping[int, Completion]) -> Completion:
    """The first sample, with the others as far as they have come."""
    return replace(samples[0], others=tuple(samples[index] for index in sorted(samples) if index))
