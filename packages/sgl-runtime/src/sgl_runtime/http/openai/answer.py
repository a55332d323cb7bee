# SPDX-License-Identifier: Apache-2.0
"""What the answers of both OpenAI endpoints have in common: the envelope, usage, finish reasons, events."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from uuid import uuid4

from sgl_runtime.engine.request import PreparedRequest, Prompt
from sgl_runtime.engine.stream import Output
from sgl_runtime.http.api import Api
from sgl_runtime.http.openai.schema import StreamOptions
from sgl_runtime.messages import Aborted, Finish, StoppedByLength


class Envelope:
    """The fields around `choices`: the same in an answer and in all events of a stream."""

    def __init__(self, prefix: str, kind: str, model: str) -> None:
        self.id = f"{prefix}-{uuid4().hex}"
        self._fields = {"id": self.id, "object": kind, "created": int(time.time()), "model": model}

    def wrap(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._fields, "choices": choices, **more}


def finish_reason(finish: Finish | None) -> str | None:
    match finish:
        case None:
            return None
        case StoppedByLength():
            return "length"
        case Aborted():
            return "abort"
        case _:
            return "stop"


def usage(prepared: PreparedRequest, latest: Mapping[int, Output]) -> dict[str, Any]:
    """Token counts; `latest` is the last output of each sample that has any yet. A prompt counts once,
    however many its samples.
    """
    prompt = sum(len(prompt.tokens) for prompt in prepared.prompts)
    cached = sum(_cached(prompt, latest) for prompt in prepared.prompts)
    completion = sum(output.completion_tokens for output in latest.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _cached(prompt: Prompt, latest: Mapping[int, Output]) -> int:
    known = [latest[sample.index].reused_tokens for sample in prompt.samples if sample.index in latest]
    return min(known, default=0)


async def answer(
    api: Api,
    prepared: PreparedRequest,
    envelope: Envelope,
    choice: Callable[[Output], dict[str, Any]],
    *,
    keep: int | None = None,
    details: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """The whole answer; `choice` renders a finished sample, and `details` is more of the usage when all have.
    `keep`: of each prompt's samples only so many, those with the highest log-probability per token.
    """
    with api.client.open(prepared, streaming=False) as generation:
        outputs = await generation.results()
    latest = {output.sample.index: output for output in outputs}
    choices = [choice(output) for output in (outputs if keep is None else _best(prepared, latest, keep))]
    if keep is not None:
        choices = [{**choice, "index": index} for index, choice in enumerate(choices)]
    return envelope.wrap(choices, usage={**usage(prepared, latest), **details()})


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
    choices: Callable[[Output], list[dict[str, Any]]],
    options: StreamOptions | None,
    details: Callable[[], dict[str, Any]] = dict,
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream; `choices` renders an output as those of zero or more events.

    With continuous_usage_stats every event has the usage of the whole request up to it.
    """
    options = options or StreamOptions()
    more: dict[str, Any] = {"usage": None} if options.include_usage else {}
    latest: dict[int, Output] = {}
    with api.client.open(prepared, streaming=True) as generation:
        async for output in generation.outputs():
            latest[output.sample.index] = output
            rendered = choices(output)
            if rendered and options.continuous_usage_stats:
                more = {"usage": {**usage(prepared, latest), **details()}}
            for choice in rendered:
                yield envelope.wrap([choice], **more)
    if options.include_usage:
        yield envelope.wrap([], usage={**usage(prepared, latest), **details()})
