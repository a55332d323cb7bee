# SPDX-License-Identifier: Apache-2.0
"""`Result` -> `Delta`s: what is said to the senders of requests.

Log-probabilities of a prompt are gathered over its chunks and go out once, those of a token go with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from sgl_runtime.messages import F32, I32, Aborted, Delta, Logprobs, Pooled, Result
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.table import Table

Entry: TypeAlias = "tuple[float, list[tuple[int, float]]]"

INVALID_TOKEN = -1  # in Result.tokens


def collect_scores(scored: Iterable[tuple[Request, int]], result: Result) -> None:
    """Hand the reported prompt log-probabilities to those who asked, `scored` in the order of asking."""
    position = 0
    for request, count in scored:
        if request.scores is not None:
            assert result.input_logprobs is not None, "the batch asked for prompt log-probabilities"
            request.scores.collect(result.input_logprobs[position : position + count])
        position += count


def delta(request: Request, entry: Entry | None = None) -> Delta:
    """What is new of a request, whose output is up to date: all tokens that its sender has not been told, and
    its finish if any. `entry`: the log-probabilities of the one token, if they are asked for."""
    tokens, forced = request.news()
    if request.top < 0 and request.scores is None:
        return Delta(request.rid, tokens, request.finish, request.cached or 0, forced=forced)
    prompt_logprobs = output_logprobs = None
    if request.scores is not None:
        prompt_logprobs = request.scores.logprobs()
        request.scores = None
    if request.top >= 0 and tokens:
        assert entry is not None, "the batch asked for log-probabilities"
        output_logprobs = Logprobs(tokens, [entry[0]], [entry[1]])
    cached = request.cached or 0
    return Delta(request.rid, tokens, request.finish, cached, prompt_logprobs, output_logprobs, forced)


def tell(table: Table, rows: I32, tokens: I32, generated: I32) -> list[Delta]:
    """`delta` of many requests that do not end, are not constrained and report no log-probabilities. Their
    rows, the token appended last, and how many there are: [n] each."""
    deltas: list[Delta] = []
    for row, token, known in zip(rows.tolist(), tokens.tolist(), generated.tolist(), strict=True):
        request = table.at(row)
        output, told = request.output, request.told
        if len(output) == told == known - 1:  # all that is streamed
            output.append(token)
            request.told = known
            new = [token]
        else:
            table.receive(request, token, known)
            new, _ = request.news()
        deltas.append(Delta(request.rid, new, None, request.cached or 0))
    return deltas


def vector_of(request: Request, vector: F32) -> Pooled | Aborted:
    """The end of a request that has been answered with a vector, [size]."""
    if np.isfinite(vector).all():
        return Pooled(vector)
    return Aborted(
        f"the model computed no vector for the prompt of {len(request.prompt)} tokens, but NaN or infinity: "
        "its weights may be damaged, or overflow in this dtype (try --dtype bfloat16 or float32)"
    )


def no_valid_token(request: Request) -> Aborted:
    """The end of a request whose logits hold no distribution."""
    if request.constrained is not None:
        return Aborted(
            f"no token was left for output token {len(request.output)}: min_new_tokens, stop_token_ids or "
            "logit_bias forbid all that the constraint allows, or the model's logits are NaN"
        )
    return Aborted(
        f"the model computed no probabilities for output token {len(request.output)}, but NaN or infinity: "
        "its weights may be damaged, or overflow in this dtype (try --dtype bfloat16 or float32)"
    )


def no_memory(request: Request) -> Aborted:
    """The end of a request that the device had not the memory to compute."""
    return Aborted(
        f"the device had no memory left to compute this request, of {len(request.prompt)} prompt tokens: try "
        "again, or start the server with a smaller --mem-fraction-static or --chunked-prefill-size",
        overloaded=True,
    )
