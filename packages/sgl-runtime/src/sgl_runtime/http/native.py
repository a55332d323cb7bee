# SPDX-License-Identifier: Apache-2.0
"""`POST /generate`: one prompt or many, as text or as token ids, at once or as a stream of server-sent
events.

A stream's events carry all of the text so far; where the answer is a list, also the `index` of the sample
they belong to. Field names are those of SGLang 0.2.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import NotRequired, TypeAlias, TypedDict

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prepare import Ask
from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import json_response, native_error
from sgl_runtime.http.logprobs import Triple, Triples
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prompts import names, prompts_of, spread
from sgl_runtime.http.stream import EventStream, while_connected
from sgl_runtime.http.unsupported import Unsupported
from sgl_runtime.messages import (
    Aborted,
    Finish,
    Logprobs,
    LogprobSpec,
    Pooled,
    StoppedByConstraint,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)

DEFAULT_MAX_NEW_TOKENS = 128


class GenerateBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of `text` and `input_ids`; a list in any other field has one entry per prompt."""

    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    image_data: Unsupported = None
    sampling_params: SamplingBody | list[SamplingBody] | None = None
    rid: str | list[str] | None = None
    return_logprob: bool | list[bool] = False
    logprob_start_len: int | list[int] = 0
    top_logprobs_num: int | list[int] = 0
    return_text_in_logprobs: bool = False
    stream: bool = False


class Stopped(msgspec.Struct, tag_field="type", tag="stop"):
    matched: int | str | None  # the token or the string; None: the end of a constrained text


class Full(msgspec.Struct, tag_field="type", tag="length"):
    length: int


class CutShort(msgspec.Struct, tag_field="type", tag="abort"):
    message: str


class Computed(msgspec.Struct, tag_field="type", tag="pooled"):
    """The prompt was all there was to compute."""


FinishReason: TypeAlias = Stopped | Full | CutShort | Computed


class MetaLogprobs(TypedDict, total=False):
    """A token is [log-probability, id, text]; the first one of a prompt has no probability."""

    input_token_logprobs: list[Triple]
    output_token_logprobs: list[Triple]
    input_top_logprobs: list[list[Triple]]
    output_top_logprobs: list[list[Triple]]
    normalized_prompt_logprob: float | None


class Meta(MetaLogprobs):
    id: str
    prompt_tokens: int
    completion_tokens: int
    completion_tokens_wo_jump_forward: int
    cached_tokens: int
    finish_reason: FinishReason | None


class Sample(TypedDict):
    """`token_ids` in the place of `text` from a server without a tokenizer; `index` where there are several
    samples in one stream.
    """

    text: NotRequired[str]
    token_ids: NotRequired[list[int]]
    index: NotRequired[int]
    meta_info: Meta


_DECODER = msgspec.json.Decoder(GenerateBody)


@operation(
    reads=_DECODER,
    answers=Sample | list[Sample],
    streams=Sample,
    example={"text": "The capital of France is", "sampling_params": {"max_new_tokens": 8}},
)
async def generate(api: Api, request: Request) -> ASGIApp:
    """Complete one prompt or many, given as text or as token ids. An event of a stream has all of the text so
    far.
    """
    body = await read(request, _DECODER)
    asks, many = _asks(body)
    prepared = await api.preparation.prepare(asks)
    many = many or len(prepared.samples) > 1
    triples = Triples(api.tokenizer if body.return_text_in_logprobs else None)
    if body.stream:
        return EventStream(_events(api, prepared, many, triples), native_error)
    return json_response(await while_connected(request.receive, _answers(api, prepared, many, triples)))


async def _answers(
    api: Api, prepared: PreparedRequest, many: bool, triples: Triples
) -> Sample | list[Sample]:
    with api.client.open(prepared, streaming=False) as generation:
        answers = [_Answer(triples, api).add(output) for output in await generation.results()]
    return answers if many else answers[0]


async def _events(
    api: Api, prepared: PreparedRequest, many: bool, triples: Triples
) -> AsyncGenerator[Sample, None]:
    answers = [_Answer(triples, api) for _ in prepared.samples]
    with api.client.open(prepared, streaming=True) as generation:
        async for output in generation.outputs():
            index = output.sample.index
            event = answers[index].add(output)
            if output.new_text or output.finish is not None or api.tokenizer is None:
                yield {**event, "index": index} if many else event


class _Answer:
    """The JSON of one sample: all of it so far."""

    def __init__(self, triples: Triples, api: Api) -> None:
        self._triples = triples
        self._tokens: list[int] | None = [] if api.tokenizer is None else None
        self._logprobs: MetaLogprobs = {}

    def add(self, output: Output) -> Sample:
        if output.sample.generate.logprobs is not None:
            self._add_logprobs(output, output.sample.generate.logprobs.top)
        meta: Meta = {
            "id": output.sample.id,
            "prompt_tokens": len(output.sample.generate.tokens),
            "completion_tokens": output.completion_tokens,
            "completion_tokens_wo_jump_forward": output.completion_tokens - output.forced_tokens,
            "cached_tokens": output.cached_tokens,
            "finish_reason": None if output.finish is None else finish_reason(output.finish),
            **self._logprobs,
        }
        if self._tokens is None:
            return {"text": output.text, "meta_info": meta}
        self._tokens += output.new_tokens
        return {"token_ids": self._tokens, "meta_info": meta}

    def _add_logprobs(self, output: Output, top: int) -> None:
        nothing = Logprobs([], [], [])
        given, new = output.input_logprobs or nothing, output.output_logprobs or nothing
        self._logprobs.setdefault("input_token_logprobs", []).extend(self._triples.tokens(given))
        self._logprobs.setdefault("output_token_logprobs", []).extend(self._triples.tokens(new))
        if top:
            self._logprobs.setdefault("input_top_logprobs", []).extend(self._triples.top(given))
            self._logprobs.setdefault("output_top_logprobs", []).extend(self._triples.top(new))
        if output.input_logprobs is not None:
            known = [value for value in output.input_logprobs.values if value is not None]
            self._logprobs["normalized_prompt_logprob"] = sum(known) / len(known) if known else None


def finish_reason(finish: Finish) -> FinishReason:
    match finish:
        case StoppedByToken(token):
            return Stopped(token)
        case StoppedByString(text):
            return Stopped(text.decode(errors="replace"))
        case StoppedByConstraint():
            return Stopped(None)
        case StoppedByLength(length):
            return Full(length)
        case Pooled():
            return Computed()
        case Aborted(reason):
            return CutShort(reason)


def _asks(body: GenerateBody) -> tuple[list[Ask], bool]:
    """One Ask per prompt, and whether the user gave a list of prompts."""
    if body.image_data is not None:
        raise InvalidRequest(
            "image_data: this build serves text models only; leave the field out", param="image_data"
        )
    given = prompts_of(body.text, body.input_ids)
    prompts, many = given.prompts, given.many
    params = SamplingBody() if body.sampling_params is None else body.sampling_params
    sampling = spread(params, "sampling_params", len(prompts), many)
    wanted = spread(body.return_logprob, "return_logprob", len(prompts), many)
    starts = spread(body.logprob_start_len, "logprob_start_len", len(prompts), many)
    tops = spread(body.top_logprobs_num, "top_logprobs_num", len(prompts), many)
    asks = [
        Ask(
            prompt=prompt,
            source=given.source(i),
            sampling=sampling[i],
            spell=_spelling(i if isinstance(body.sampling_params, list) else None),
            id=name,
            rid=rid,
            default_length=DEFAULT_MAX_NEW_TOKENS,
            logprobs=LogprobSpec(start=starts[i], top=tops[i]) if wanted[i] else None,
        )
        for i, (prompt, (name, rid)) in enumerate(
            zip(prompts, names(body.rid, len(prompts), many), strict=True)
        )
    ]
    return asks, many


def _spelling(index: int | None) -> Callable[[str], str]:
    prefix = "sampling_params" if index is None else f"sampling_params[{index}]"
    outside = ("logprob_start_len", "top_logprobs_num")
    return lambda field: field if field in outside else f"{prefix}.{field}"
