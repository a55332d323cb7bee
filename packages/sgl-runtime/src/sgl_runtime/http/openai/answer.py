# SPDX-License-Identifier: Apache-2.0
"""What the answers of both OpenAI endpoints have in common: the envelope, usage, finish reasons, events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any
from uuid import uuid4

from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.stream import Output
from sgl_runtime.http.api import Api
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
    """Token counts; `latest` is the last output of each sample. A prompt counts once, however many its
    samples.
    """
    prompt = sum(len(prompt.tokens) for prompt in prepared.prompts)
    cached = sum(
        min(latest[sample.index].reused_tokens for sample in prompt.samples) for prompt in prepared.prompts
    )
    completion = sum(output.completion_tokens for output in latest.values())
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


async def answer(
    api: Api, prepared: PreparedRequest, envelope: Envelope, choice: Callable[[Output], dict[str, Any]]
) -> dict[str, Any]:
    """The whole answer; `choice` renders a finished sample."""
    with api.client.open(prepared, streaming=False) as generation:
        outputs = await generation.results()
    latest = {output.sample.index: output for output in outputs}
    return envelope.wrap([choice(output) for output in outputs], usage=usage(prepared, latest))


async def events(
    api: Api,
    prepared: PreparedRequest,
    envelope: Envelope,
    choices: Callable[[Output], list[dict[str, Any]]],
    *,
    include_usage: bool,
) -> AsyncGenerator[dict[str, Any], None]:
    """The events of a stream; `choices` renders an output as those of zero or more events."""
    more: dict[str, Any] = {"usage": None} if include_usage else {}
    latest: dict[int, Output] = {}
    with api.client.open(prepared, streaming=True) as generation:
        async for output in generation.outputs():
            latest[output.sample.index] = output
            for choice in choices(output):
                yield envelope.wrap([choice], **more)
    if include_usage:
        yield envelope.wrap([], usage=usage(prepared, latest))
