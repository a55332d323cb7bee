# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/decisions`: which of several texts goes on best after a prompt or a chat. Nothing is generated.

Every choice is computed behind the prompt and its tokens' log-probabilities are compared. All are compared
from where their tokens part from the prompt's: where the end of the prompt and the beginning of a choice make
up one token, that is before the prompt's end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypedDict

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.choosing import UNCONDITIONAL, Method, Scored, scores
from sgl_runtime.engine.prefill import Score, prompt_tokens, scoring
from sgl_runtime.engine.prepare import Given
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import template_of
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.answer import Choice, Envelope
from sgl_runtime.http.openai.messages import turns_of
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_request
from sgl_runtime.http.openai.schema import ChatMessage
from sgl_runtime.http.openai.score import softmax
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prefill import PromptUsage, logprobs_of, outputs_of, usage_of
from sgl_runtime.http.stream import while_connected

_MAX_CHOICES = 1024


class DecisionBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of `prompt` and `messages`. The choices are texts, or all token ids, as their prompt."""

    prompt: str | list[int] | None = None
    messages: list[ChatMessage] | None = None
    choices: Annotated[list[str | list[int]], Meta(min_length=2, max_length=_MAX_CHOICES)]
    method: Method = "token_length_normalized"
    model: str = "default"
    user: str | None = None


class ScoredChoice(Choice):
    """`logprob` is the sum of `token_logprobs`; `probability` is among the choices."""

    choice: str | list[int]
    score: float
    probability: float
    logprob: float
    tokens: list[int]
    token_logprobs: list[float]


class Decision(TypedDict):
    """`index` and `choice` are those of the highest `score`."""

    id: str
    object: str
    created: int
    model: str
    index: int
    choice: str | list[int]
    method: Method
    choices: list[ScoredChoice]
    usage: PromptUsage


class _Compared(NamedTuple):
    """Tokens of the prompt and a choice, for each choice; from `start` on they are compared."""

    tokens: list[list[int]]
    start: int


_DECODER = msgspec.json.Decoder(DecisionBody)


@operation(
    reads=_DECODER,
    answers=Decision,
    refuses=UNKNOWN_MODEL,
    example={"prompt": "Question: is the sky green? Answer:", "choices": [" yes", " no"]},
)
async def decisions(api: Api, request: Request) -> ASGIApp:
    """Which of several texts goes on best after a prompt or a chat."""
    body = await read_request(api, request, _DECODER)
    compared = await _compare(api, body)
    envelope = Envelope("decision", "decision", api.model_name)
    groups = [[Score(tokens, compared.start) for tokens in compared.tokens]]
    if body.method == UNCONDITIONAL:
        groups.append(_alone(api, compared))
    prepared = scoring(groups, envelope.id, home=api.client.peers.home)
    outputs = await while_connected(request.receive, outputs_of(api, prepared))
    after = [logprobs_of(output) for output in outputs[: len(body.choices)]]
    alone = [logprobs_of(output) for output in outputs[len(body.choices) :]] or [[]] * len(after)
    choices = _choices(body, compared, [Scored(*each) for each in zip(after, alone, strict=True)])
    best = max(choices, key=lambda choice: choice["score"])
    around = envelope.wrap(choices)
    answer: Decision = {
        "id": around["id"],
        "object": around["object"],
        "created": around["created"],
        "model": around["model"],
        "index": best["index"],
        "choice": best["choice"],
        "method": body.method,
        "choices": choices,
        "usage": usage_of(prompt_tokens(prepared)),
    }
    return json_response(answer)


def _choices(body: DecisionBody, compared: _Compared, scored: list[Scored]) -> list[ScoredChoice]:
    logprobs = [sum(each.after) for each in scored]
    columns = (
        body.choices,
        scores(body.method, scored),
        softmax(logprobs),
        logprobs,
        compared.tokens,
        scored,
    )
    return [
        {
            "index": index,
            "choice": choice,
            "score": score,
            "probability": probability,
            "logprob": logprob,
            "tokens": tokens[compared.start :],
            "token_logprobs": list(each.after),
        }
        for index, (choice, score, probability, logprob, tokens, each) in enumerate(
            zip(*columns, strict=True)
        )
    ]


async def _compare(api: Api, body: DecisionBody) -> _Compared:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("give exactly one of prompt and messages", param="prompt")
    prompt, source = body.prompt, "prompt"
    if body.messages is not None:
        prompt, source = template_of(api).render(turns_of(body.messages)), "messages"
    assert prompt is not None, "one of the two is there"
    add_special = body.messages is None
    givens = [Given(prompt=prompt, source=source, add_special=add_special)]
    for i, choice in enumerate(body.choices):
        where = f"choices[{i}]"
        if not choice:
            raise InvalidRequest(f"{where}: the choice is empty", param=where)
        givens.append(Given(prompt=_behind(prompt, choice, where), source=where, add_special=add_special))
    before, *tokens = await api.preparation.tokens(givens)
    start = len(before) if isinstance(prompt, list) else _parting(before, tokens)
    if start < 1:
        raise InvalidRequest(
            f"{source}: all of it becomes one token with the beginning of a choice: make it longer",
            param=source,
        )
    return _Compared(tokens, start)


def _behind(prompt: str | list[int], choice: str | list[int], where: str) -> str | list[int]:
    if isinstance(prompt, str) and isinstance(choice, str):
        return prompt + choice
    if isinstance(prompt, list) and isinstance(choice, list):
        return [*prompt, *choice]
    raise InvalidRequest(
        f"{where}: text goes behind a prompt of text, token ids behind token ids", param=where
    )


def _parting(before: Sequence[int], after: Sequence[Sequence[int]]) -> int:
    """How many leading tokens the prompt and all continuations agree on, each of which has one more."""
    start = min(len(before), *(len(ids) - 1 for ids in after))
    for ids in after:
        while before[:start] != ids[:start]:
            start -= 1
    return start


def _alone(api: Api, compared: _Compared) -> list[Score]:
    """The same tokens at the beginning of a text."""
    nothing = [] if api.tokenizer is None else api.tokenizer.encode("")
    if not nothing and api.model.bos is None:
        raise InvalidRequest(
            f"method: {UNCONDITIONAL} needs the token that begins a text, and this model has none; choose"
            " another",
            param="method",
        )
    begin = nothing or [api.model.bos or 0]
    return [Score([*begin, *tokens[compared.start :]], len(begin)) for tokens in compared.tokens]
