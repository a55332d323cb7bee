# SPDX-License-Identifier: Apache-2.0
"""What the answers of both OpenAI endpoints have in common: the envelope, usage, finish reasons, events."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Generic, Literal, NotRequired, TypeAlias, TypedDict, TypeVar
from uuid import uuid4

import msgspec
from msgspec import UNSET, UnsetType

from sgl_runtime.engine.request import PreparedRequest, Prompt
from sgl_runtime.engine.stream import Output
from sgl_runtime.http.api import Api
from sgl_runtime.http.openai.schema import StreamOptions
from sgl_runtime.messages import Aborted, Finish, StoppedByLength


class Choice(TypedDict):
    index: int


C = TypeVar("C", bound=Choice)  # a member of `choices`

FinishReason: TypeAlias = Literal["stop", "length", "abort", "tool_calls"]


class PromptDetails(TypedDict):
    cached_tokens: int


class CompletionDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: NotRequired[CompletionDetails]


class Event(TypedDict, Generic[C]):
    """One without choices is the last, with the usage that `include_usage` asks for."""

    id: str
    object: str
    created: int
    model: str
    choices: list[C]
    usage: NotRequired[Usage | None]


class Answer(TypedDict, Generic[C]):
    id: str
    object: str
    created: int
    model: str
    choices: list[C]
    usage: Usage


class Envelope:
    """The fields around `choices`: the same in an answer and in all events of a stream."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self.id = f"{prefix}-{uuid4().hex}"
        self._kind = kind
        self._created = int(time.time())
        self._model = model

    def wrap(self, choices: list[C]) -> Event[C]:
        return {
            "id": self.id,
            "object": self._kind,
            "created": self._created,
            "model": self._model,
            "choices": choices,
        }

    def writer(self) -> Callable[[list[C], Usage | UnsetType | None], msgspec.Raw]:
        """Writes the events of a stream, from choices and usage: what is the same in all is composed once."""
        head = msgspec.json.encode(self.wrap([])).removesuffix(b"[]}")

        def write(choices: list[C], usage: Usage | UnsetType | None) -> msgspec.Raw:
            body = head + msgspec.json.encode(choices)
            if usage is not UNSET:
                body += b',"usage":' + msgspec.json.encode(usage)
            return msgspec.Raw(body + b"}")

        return write


def finish_reason(finish: Finish | None) -> FinishReason | None:
    match finish:
        case None:
            return None
        case StoppedByLength():
            return "length"
        case Aborted():
            return "abort"
        case _:
            return "stop"


def usage(
    prepared: PreparedRequest, latest: Mapping[int, Output], details: CompletionDetails | None
) -> Usage:
    """Token counts; `latest` is the last output of each sample that has any yet. A prompt counts once,
    however many its samples.
    """
    prompt = sum(len(prompt.tokens) for prompt in prepared.prompts)
    cached = sum(_cached(prompt, latest) for prompt in prepared.prompts)
    completion = sum(output.completion_tokens for output in latest.values())
    counted: Usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if details is not None:
        counted["completion_tokens_details"] = details
    return counted


def no_details() -> None:
    """Usage says no more of a completion than its length."""


def _cached(prompt: Prompt, latest: Mapping[int, Output]) -> int:
    known = [latest[sample.index].reused_tokens for sample in prompt.samples if sample.index in latest]
    return min(known, default=0)


async def answer(
    api: Api,
    prepared: PreparedRequest,
    envelope: Envelope,
    choice: Callable[[Output], C],
    *,
    keep: int | None = None,
    details: Callable[[], CompletionDetails | None] = no_details,
) -> Answer[C]:
    """The whole answer; `choice` renders a finished sample, and `details` is more of the usage when all have.
    `keep`: of each prompt's samples only so many, those with the highest log-probability per token.
    """
    with api.client.open(prepared, streaming=False) as generation:
        outputs = await generation.results()
    latest = {output.sample.index: output for output in outputs}
    choices = [choice(output) for output in (outputs if keep is None else _best(prepared, latest, keep))]
    if keep is not None:
        for index, kept in enumerate(choices):
            kept["index"] = index
    return {**envelope.wrap(choices), "usage": usage(prepared, latest, details())}


def _best(prepared: PreparedRequest, latest: Mapping[int, Output], keep: int) -> list[Output]:
    best: list[Output] = []
    for prompt in prepared.prompts:
        outputs = [latest[sample.index] for sample in prompt.samples]
        best += sorted(outputs, key=_likelihood, reverse=True)[:keep]
    return best


def _likelihood(output: Output) -> float:
    """The mean log-probability of a sample's tokens; one of no tokens is the least likely."""
    values = [] if output.output_logprobs is None else output.output_logprobs.values
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else -math.inf


async def events(
    api: Api,
    prepared: PreparedRequest,
    envelope: Envelope,
    choices: Callable[[Output], list[C]],
    options: StreamOptions | None,
    details: Callable[[], CompletionDetails | None] = no_details,
) -> AsyncGenerator[msgspec.Raw, None]:
    """The events of a stream, each an `Event`; `choices` renders an output as those of zero or more events.

    With continuous_usage_stats every event has the usage of the whole request up to it.
    """
    options = options or StreamOptions()
    write = envelope.writer()
    latest: dict[int, Output] = {}
    so_far: Usage | UnsetType | None = None if options.include_usage else UNSET
    with api.client.open(prepared, streaming=True) as generation:
        async for output in generation.outputs():
            latest[output.sample.index] = output
            for choice in choices(output):
                if options.continuous_usage_stats:
                    so_far = usage(prepared, latest, details())
                yield write([choice], so_far)
    if options.include_usage:
        yield write([], usage(prepared, latest, details()))
