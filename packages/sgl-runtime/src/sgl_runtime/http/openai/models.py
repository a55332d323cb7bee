# SPDX-License-Identifier: Apache-2.0
"""`GET /v1/models`, and the question whether a request means the model that is served."""

from __future__ import annotations

from typing import Literal, Protocol, TypedDict, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.errors import InvalidRequest, NotFound
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.operation import operation
from sgl_runtime.text.tokenizer import Tokenizer

UNKNOWN_MODEL = {404: "The model is not the one that is served."}


class ModelCard(TypedDict):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    max_model_len: int


class ModelList(TypedDict):
    object: Literal["list"]
    data: list[ModelCard]


@operation(answers=ModelList)
async def list_models(api: Api, request: Request) -> Response:
    """The models that are served: one."""
    answer: ModelList = {"object": "list", "data": [_card(api)]}
    return json_response(answer)


@operation(answers=ModelCard, refuses=UNKNOWN_MODEL)
async def get_model(api: Api, request: Request) -> Response:
    """A model by its name. `{id}` may hold slashes, as hub ids do."""
    check_model(api, request.path_params["id"])
    return json_response(_card(api))


class _Body(Protocol):
    model: str


B = TypeVar("B", bound=_Body)


async def read_request(api: Api, request: Request, decoder: msgspec.json.Decoder[B]) -> B:
    """The body of a request to the model that is served. Raises what `read` and `check_model` do."""
    body = await read(request, decoder)
    check_model(api, body.model)
    return body


async def read_text_request(
    api: Api, request: Request, decoder: msgspec.json.Decoder[B]
) -> tuple[B, Tokenizer]:
    """The same, to be answered in text. Raises what `read_request` and `tokenizer_of` do."""
    return await read_request(api, request, decoder), tokenizer_of(api)


def check_model(api: Api, name: str) -> None:
    """Raises NotFound with the right name. "default", the served name and the model's path all mean the
    model.
    """
    if name not in api.model_names:
        raise NotFound(
            f"model: there is no {name[:100]!r} here, this server has {api.model_name!r}", param="model"
        )


def tokenizer_of(api: Api) -> Tokenizer:
    """Raises InvalidRequest without one: OpenAI's answers are text."""
    if api.tokenizer is None:
        raise InvalidRequest(
            "this server has no tokenizer (--skip-tokenizer-init) and cannot answer in text; use /generate"
            " with input_ids"
        )
    return api.tokenizer


def _card(api: Api) -> ModelCard:
    return {
        "id": api.model_name,
        "object": "model",
        "created": int(api.started),
        "owned_by": "sgl",
        "root": api.model_path,
        "max_model_len": api.limits.context_length,
    }
