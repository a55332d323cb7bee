# SPDX-License-Identifier: Apache-2.0
"""The answers of requests that are answered by the computation of their prompts; all of them or an error."""

from __future__ import annotations

from typing import TypedDict

from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import Unanswered
from sgl_runtime.http.api import Api
from sgl_runtime.messages import F32, Aborted, Pooled


class PromptUsage(TypedDict):
    """Nothing is generated: the two are the same."""

    prompt_tokens: int
    total_tokens: int


def usage_of(tokens: int) -> PromptUsage:
    return {"prompt_tokens": tokens, "total_tokens": tokens}


async def outputs_of(api: Api, prepared: PreparedRequest) -> list[Output]:
    """The output of every sample, by index. Raises Unanswered for one that did not come to its end."""
    with api.client.open(prepared, streaming=False) as generation:
        outputs = await generation.results()
    for output in outputs:
        if isinstance(output.finish, Aborted):
            raise Unanswered(output.finish.reason)
    return outputs


def vector_of(output: Output) -> F32:
    """[size], of a model that pools."""
    assert isinstance(output.finish, Pooled), "such a model ends every request with its vector"
    return output.finish.vector


def logprobs_of(output: Output) -> list[float]:
    """Of the tokens that were to be scored."""
    assert output.input_logprobs is not None, "they were asked for"
    values = [value for value in output.input_logprobs.values if value is not None]
    assert len(values) == len(output.input_logprobs.tokens), "only a first token has none"
    return values
