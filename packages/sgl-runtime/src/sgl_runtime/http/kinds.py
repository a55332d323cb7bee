# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a model has: those of texts, or those of vectors. The others refuse, and name the right
ones.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.messages import Answers

Endpoint: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]

_INSTEAD: dict[Answers, str] = {
    "text": (
        "generates text: serve an embedding model, or start the server with --is-embedding for embeddings of"
        " this one's last hidden state"
    ),
    "embeddings": "answers with embeddings: ask /v1/embeddings or /encode, or serve a model that generates",
    "scores": "answers with scores of classes: ask /v1/classify or /encode",
}


def for_text(api: Api, endpoint: Callable[[Api, Request], Awaitable[ASGIApp]]) -> Endpoint:
    return _only(api, endpoint, "text")


def for_embeddings(api: Api, endpoint: Callable[[Api, Request], Awaitable[ASGIApp]]) -> Endpoint:
    return _only(api, endpoint, "embeddings")


def for_scores(api: Api, endpoint: Callable[[Api, Request], Awaitable[ASGIApp]]) -> Endpoint:
    return _only(api, endpoint, "scores")


def for_vectors(api: Api, endpoint: Callable[[Api, Request], Awaitable[ASGIApp]]) -> Endpoint:
    return _only(api, endpoint, "embeddings", "scores")


def _only(api: Api, endpoint: Callable[[Api, Request], Awaitable[ASGIApp]], *kinds: Answers) -> Endpoint:
    answers = api.limits.answers
    return partial(endpoint if answers in kinds else refuse, api)


async def refuse(api: Api, request: Request) -> ASGIApp:
    """Raises InvalidRequest with what this model does answer."""
    await request.body()  # a connection with an unread body serves no other request
    raise InvalidRequest(
        f"model: {api.model_name!r} {_INSTEAD[api.limits.answers]}; {request.url.path} is not for it",
        param="model",
    )
