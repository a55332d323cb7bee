# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/completions`."""

from __future__ import annotations

from typing import TypedDict

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prepare import Ask
from sgl_runtime.engine.request import PreparedRequest, Prompt
from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.errors import json_response, openai_error
from sgl_runtime.http.openai.answer import (
    Answer,
    Envelope,
    Event,
    FinishReason,
    answer,
    events,
    finish_reason,
)
from sgl_runtime.http.openai.logprobs import CompletionLogprobs, Lists, joined
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_text_request
from sgl_runtime.http.openai.prompts import prompts_of
from sgl_runtime.http.openai.schema import CompletionBody, check_common, sampling_body, spelling
from sgl_runtime.http.operation import operation
from sgl_runtime.http.stream import EventStream, while_connected
from sgl_runtime.messages import Logprobs, LogprobSpec
from sgl_runtime.text.tokenizer import Tokenizer

DEFAULT_MAX_TOKENS = 16
_DECODER = msgspec.json.Decoder(CompletionBody)


class CompletionChoice(TypedDict):
    index: int
    text: str
    logprobs: Lists | None
    finish_reason: FinishReason | None


class Completion(Answer[CompletionChoice]): ...


class CompletionEvent(Event[CompletionChoice]): ...


@operation(
    reads=_DECODER,
    answers=Completion,
    streams=CompletionEvent,
    refuses=UNKNOWN_MODEL,
    example={"prompt": "The capital of France is", "max_tokens": 8},
)
async def completions(api: Api, request: Request) -> ASGIApp:
    """Complete a prompt, or each of a list: OpenAI's older protocol."""
    body, tokenizer = await read_text_request(api, request, _DECODER)
    check_common(body)
    _check_best_of(body)
    envelope = Envelope("cmpl", "text_completion", api.model_name)
    prepared = await api.preparation.prepare(_asks(body, envelope.id))
    choices = _Choices(body, prepared, tokenizer)
    if not body.stream:
        keep = None if body.best_of is None else body.n or 1
        whole = answer(api, prepared, envelope, choices.whole, keep=keep)
        return json_response(await while_connected(request.receive, whole))
    stream = events(api, prepared, envelope, choices.deltas, options=body.stream_options)
    return EventStream(stream, openai_error)


def _check_best_of(body: CompletionBody) -> None:
    if body.best_of is None:
        return
    if body.best_of < (body.n or 1):
        raise InvalidRequest(f"best_of: at least n, which is {body.n}, got {body.best_of}", param="best_of")
    if body.stream and body.best_of > (body.n or 1):
        raise InvalidRequest(
            "best_of: which samples are the best is known when all have ended; leave out stream or best_of",
            param="best_of",
        )


def _asks(body: CompletionBody, id: str) -> list[Ask]:
    prompts = prompts_of(body.prompt, "prompt")
    many = len(prompts) > 1
    sampling = sampling_body(body, None if body.max_tokens is UNSET else body.max_tokens)
    logprobs = None
    if body.best_of is not None:
        sampling.n = body.best_of
        logprobs = LogprobSpec()  # to tell which are the best
    if body.logprobs is not None:
        logprobs = LogprobSpec(start=0 if body.echo else -1, top=body.logprobs)
    return [
        Ask(
            prompt=prompt,
            source=f"prompt[{i}]" if many else "prompt",
            sampling=sampling,
            spell=spelling(body, n="n" if body.best_of is None else "best_of"),
            id=f"{id}-{i}" if many else id,
            rid=id,
            default_length=DEFAULT_MAX_TOKENS if body.max_tokens is UNSET else None,
            logprobs=logprobs,
        )
        for i, prompt in enumerate(prompts)
    ]


class _Choices:
    """The samples of one request, as members of `choices`."""

    def __init__(self, body: CompletionBody, prepared: PreparedRequest, tokenizer: Tokenizer) -> None:
        self._samples = [
            _Choice(prompt, tokenizer, top=body.logprobs, echo=bool(body.echo))
            for prompt in prepared.prompts
            for _ in prompt.samples
        ]

    def whole(self, output: Output) -> CompletionChoice:
        return self._samples[output.sample.index].add(output)

    def deltas(self, output: Output) -> list[CompletionChoice]:
        """For the events of a stream: none where there is nothing to say yet."""
        choice = self._samples[output.sample.index].add(output)
        logprobs = choice["logprobs"]
        worth = choice["text"] or choice["finish_reason"] or (logprobs is not None and logprobs["tokens"])
        return [choice] if worth else []


class _Choice:
    """One sample. `top`: how many log-probabilities beside each token, None for none at all."""

    def __init__(self, prompt: Prompt, tokenizer: Tokenizer, *, top: int | None, echo: bool) -> None:
        skip_special = prompt.samples[0].text.skip_special
        self._prompt = prompt
        self._echo = ""
        if echo:
            text = prompt.text
            self._echo = tokenizer.decode(prompt.tokens, skip_special=skip_special) if text is None else text
        self._echoes = echo  # until the prompt has been shown
        self._logprobs = (
            None if top is None else CompletionLogprobs(tokenizer, top=top, skip_special=skip_special)
        )

    def add(self, output: Output) -> CompletionChoice:
        """The new text and its log-probabilities; the first time with the prompt's, if that is wanted."""
        text = output.new_text
        logprobs = self._completion_logprobs(output)
        if self._echoes:
            self._echoes = False
            text = self._echo + text
        return {
            "index": output.sample.index,
            "text": text,
            "logprobs": logprobs,
            "finish_reason": finish_reason(output.finish),
        }

    def _completion_logprobs(self, output: Output) -> Lists | None:
        if self._logprobs is None:
            return None
        prompt = None
        if self._echoes:
            assert output.input_logprobs is not None, "they come with the first output"
            prompt = self._logprobs.prompt(self._prompt, self._echo, output.input_logprobs)
        completion = self._logprobs.completion(output.output_logprobs or Logprobs([], [], []))
        return completion if prompt is None else joined(prompt, completion)
