# SPDX-License-Identifier: Apache-2.0
"""What answers say that they took, in the words of any protocol -> in those of a batch."""

from __future__ import annotations

import msgspec

from sgl_runtime.http.openai.batches.objects import BatchInputDetails, BatchOutputDetails, BatchUsage


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct, frozen=True):
    """Of chat, completions and embeddings, or of responses."""

    prompt_tokens: int = 0
    prompt_tokens_details: _Details = _Details()
    completion_tokens: int = 0
    completion_tokens_details: _Details = _Details()
    input_tokens: int = 0
    input_tokens_details: _Details = _Details()
    output_tokens: int = 0
    output_tokens_details: _Details = _Details()


class _Told(msgspec.Struct, frozen=True):
    usage: _Usage = _Usage()


_DECODER = msgspec.json.Decoder(_Told)


def usage_of(body: bytes) -> BatchUsage:
    """`body`: of an answer that one of the endpoints has given, or of an error."""
    told = _DECODER.decode(body).usage
    cached = told.prompt_tokens_details.cached_tokens + told.input_tokens_details.cached_tokens
    reasoning = told.completion_tokens_details.reasoning_tokens + told.output_tokens_details.reasoning_tokens
    prompt, completion = told.prompt_tokens + told.input_tokens, told.completion_tokens + told.output_tokens
    return BatchUsage(
        input_tokens=prompt,
        input_tokens_details=BatchInputDetails(cached),
        output_tokens=completion,
        output_tokens_details=BatchOutputDetails(reasoning),
        total_tokens=prompt + completion,
    )
