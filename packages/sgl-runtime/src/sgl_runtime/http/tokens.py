# SPDX-License-Identifier: Apache-2.0
"""`POST /tokenize` and `POST /detokenize`: the model's tokenizer, for clients that score or cut by tokens.

Asks nothing of the engine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TypedDict, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.engine.prepare import check_count
from sgl_runtime.engine.sampling import check_tokens
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, check_model, tokenizer_of
from sgl_runtime.http.operation import operation
from sgl_runtime.text.tokenizer import Tokenizer

T = TypeVar("T")

_QUICK = 4096  # characters or tokens; so many are done in less time than a thread takes to wake


class TokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`prompt` may be empty; `add_special_tokens` puts before it what /generate puts before a text."""

    prompt: str | list[str]
    model: str | None = None
    add_special_tokens: bool = True


class DetokenizeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    tokens: list[int | list[int]]
    model: str | None = None
    skip_special_tokens: bool = True


class TokenizeAnswer(TypedDict):
    """For a list of prompts, lists of both. max_model_len: the context, in tokens."""

    tokens: Sequence[int | list[int]]
    count: int | list[int]
    max_model_len: int


class DetokenizeAnswer(TypedDict):
    """For a list of lists, a list of texts."""

    text: str | list[str]


_TOKENIZE = msgspec.json.Decoder(TokenizeBody)
_DETOKENIZE = msgspec.json.Decoder(DetokenizeBody)


@operation(reads=_TOKENIZE, answers=TokenizeAnswer, refuses=UNKNOWN_MODEL, example={"prompt": "Hello"})
async def tokenize(api: Api, request: Request) -> Response:
    """The tokens of a text, or of each of a list."""
    body = await read(request, _TOKENIZE)
    tokenizer = _tokenizer(api, body.model)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    check_count(len(prompts), "prompt")

    def encode() -> list[list[int]]:
        return [tokenizer.encode(prompt, add_special=body.add_special_tokens) for prompt in prompts]

    tokens = await _apart(encode, sum(map(len, prompts)))
    counts = [len(ids) for ids in tokens]
    many = not isinstance(body.prompt, str)
    answer: TokenizeAnswer = {
        "tokens": tokens if many else tokens[0],
        "count": counts if many else counts[0],
        "max_model_len": api.limits.context_length,
    }
    return json_response(answer)


@operation(reads=_DETOKENIZE, answers=DetokenizeAnswer, refuses=UNKNOWN_MODEL, example={"tokens": [72, 105]})
async def detokenize(api: Api, request: Request) -> Response:
    """What a list of tokens spells, or each of a list of lists."""
    body = await read(request, _DETOKENIZE)
    tokenizer = _tokenizer(api, body.model)
    single = [entry for entry in body.tokens if isinstance(entry, int)]
    lists = [entry for entry in body.tokens if isinstance(entry, list)]
    if single and lists:
        raise InvalidRequest("tokens: token ids and lists of token ids are mixed", param="tokens")
    check_count(len(lists), "tokens")
    for ids in lists or [single]:
        check_tokens(ids, api.limits.vocab_size, "tokens")

    def decode() -> list[str]:
        return [tokenizer.decode(ids, skip_special=body.skip_special_tokens) for ids in lists or [single]]

    texts = await _apart(decode, sum(map(len, lists or [single])))
    answer: DetokenizeAnswer = {"text": texts if lists else texts[0]}
    return json_response(answer)


def _tokenizer(api: Api, model: str | None) -> Tokenizer:
    if model is not None:
        check_model(api, model)
    return tokenizer_of(api)


async def _apart(work: Callable[[], T], size: int) -> T:
    """The result of `work`, which takes time in proportion to `size`, without holding others up."""
    return work() if size <= _QUICK else await asyncio.to_thread(work)
