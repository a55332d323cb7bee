# SPDX-License-Identifier: Apache-2.0
"""`RequestLog`: a line of JSON for every sample that has ended, however it ended.

What a person wrote, or a model, is written down only where the operator asks for it: prompt and output, stop
strings, the text of a constraint. Keys never come here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from sgl_runtime import log
from sgl_runtime.engine.request import PreparedRequest, Prompt
from sgl_runtime.engine.stream import Stream
from sgl_runtime.messages import Sampling

_logger = log.logger(__name__)
_TEXTS = ("stop", "constraint")  # the fields of Sampling that hold what a person wrote


class RequestLog:
    """`content`: prompt and output as well."""

    def __init__(self, *, content: bool) -> None:
        self._content = content

    def write(self, request: PreparedRequest, streams: Iterable[Stream]) -> None:
        """`streams`: of all samples of `request`, by index."""
        prompts = [prompt for prompt in request.prompts for _ in prompt.samples]
        for prompt, stream in zip(prompts, streams, strict=True):
            _logger.info("%s", msgspec.json.encode(self._line(prompt, stream)).decode())

    def _line(self, prompt: Prompt, stream: Stream) -> dict[str, Any]:
        times, finish, sample = stream.times, stream.finish, stream.sample
        line = {
            "id": sample.id,
            "prompt_tokens": len(sample.generate.tokens),
            "cached_tokens": stream.cached_tokens,
            "completion_tokens": stream.completion_tokens,
            "finish": "its reader left" if finish is None else type(finish).__name__,
            "seconds": round(time.monotonic() - times.asked, 6),
            "seconds_to_first_token": None if times.first is None else round(times.first - times.asked, 6),
            "sampling": self._sampling(sample.generate.sampling),
        }
        if self._content:
            line["prompt"] = prompt.tokens if prompt.text is None else prompt.text
            line["output"] = stream.text
        return line

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        """What differs from the defaults."""
        defaults = Sampling()
        given = {
            name: value
            for name in sampling.__struct_fields__
            if (value := getattr(sampling, name)) != getattr(defaults, name)
        }
        if self._content:
            return {**given, "stop": [stop.decode(errors="replace") for stop in sampling.stop]}
        return {name: ("***" if name in _TEXTS else value) for name, value in given.items()}
