# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/score`: how likely each of some tokens is after each of some texts. Field names are SGLang's.

A text is computed once: the logits of its last token have the log-probabilities of all of them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, TypedDict
from uuid import uuid4

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prefill import Score, prompt_tokens, scoring
from sgl_runtime.engine.prepare import Given, check_count
from sgl_runtime.engine.sampling import check_tokens
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_request
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prefill import PromptUsage, logprobs_of, outputs_of, usage_of
from sgl_runtime.http.stream import while_connected


class ScoreBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`query` and `items` are both text, or both token ids. Asked about is the token behind the query and an
    item, in this order, or with `item_first` in the other.
    """

    query: str | list[int]
    items: str | list[str | list[int]]
    label_token_ids: Annotated[list[int], Meta(min_length=1)]
    apply_softmax: bool = False
    item_first: bool = False
    model: str = "default"
    user: str | None = None


class Scores(TypedDict):
    """A row for each item, a number for each label."""

    object: Literal["scoring"]
    model: str
    scores: list[list[float]]
    usage: PromptUsage


_DECODER = msgspec.json.Decoder(ScoreBody)


@operation(
    reads=_DECODER,
    answers=Scores,
    refuses=UNKNOWN_MODEL,
    example={"query": "Is it a fruit? ", "items": ["apple", "brick"], "label_token_ids": [9, 10]},
)
async def score(api: Api, request: Request) -> ASGIApp:
    """How likely each of some tokens is behind each of some texts."""
    body = await read_request(api, request, _DECODER)
    labels = body.label_token_ids
    check_tokens(labels, api.limits.vocab_size, "label_token_ids")
    givens = _prompts(body)
    check_count(len(givens) * len(labels), "items")
    prompts = await api.preparation.tokens(givens)
    groups = [[Score(prompt, len(prompt), tuple(labels))] for prompt in prompts]
    prepared = scoring(groups, f"score-{uuid4().hex}", home=api.client.peers.home)
    outputs = await while_connected(request.receive, outputs_of(api, prepared))
    rows = [logprobs_of(output) for output in outputs]
    answer: Scores = {
        "object": "scoring",
        "model": api.model_name,
        "scores": [softmax(row) if body.apply_softmax else list(map(math.exp, row)) for row in rows],
        "usage": usage_of(prompt_tokens(prepared)),
    }
    return json_response(answer)


def softmax(logprobs: list[float]) -> list[float]:
    """Shares that sum to 1, in the ratio of the probabilities."""
    most = max(logprobs)
    shares = [math.exp(value - most) for value in logprobs]
    return [share / sum(shares) for share in shares]


def _prompts(body: ScoreBody) -> list[Given]:
    """One for each item."""
    items = [body.items] if isinstance(body.items, str) else body.items
    if not items:
        raise InvalidRequest("items: the list is empty", param="items")
    many = not isinstance(body.items, str)
    return [
        Given(prompt=_joined(body, item), source=f"items[{i}]" if many else "items")
        for i, item in enumerate(items)
    ]


def _joined(body: ScoreBody, item: str | list[int]) -> str | list[int]:
    query = body.query
    if isinstance(query, str) and isinstance(item, str):
        return item + query if body.item_first else query + item
    if isinstance(query, list) and isinstance(item, list):
        return [*item, *query] if body.item_first else [*query, *item]
    raise InvalidRequest("items: text goes with a query of text, token ids with token ids", param="items")
