# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/embeddings`: the vector of each input, of length 1, as numbers or as the bytes of them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Annotated, Literal, TypedDict
from uuid import uuid4

import msgspec
import numpy as np
from msgspec import Meta
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.engine.prefill import prompt_tokens
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_request
from sgl_runtime.http.openai.pooled import prepare
from sgl_runtime.http.openai.prompts import Prompts
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prefill import PromptUsage, outputs_of, usage_of, vector_of
from sgl_runtime.http.stream import while_connected
from sgl_runtime.messages import F32


class EmbeddingsBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Prompts
    model: str = "default"
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None


class Embedding(TypedDict):
    """As numbers, or as the float32 bytes of them in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(TypedDict):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: PromptUsage


_DECODER = msgspec.json.Decoder(EmbeddingsBody)


@operation(
    reads=_DECODER, answers=Embeddings, refuses=UNKNOWN_MODEL, example={"input": ["The sun is", "It rains"]}
)
async def embeddings(api: Api, request: Request) -> ASGIApp:
    """The embeddings of texts, each of length 1."""
    body = await read_request(api, request, _DECODER)
    size = _size(api.model, body.dimensions)
    prepared = await prepare(api, body.input, f"embd-{uuid4().hex}")
    outputs = await while_connected(request.receive, outputs_of(api, prepared))
    encode: Callable[[F32], list[float] | str] = _base64 if body.encoding_format == "base64" else _numbers
    data: list[Embedding] = [
        {"object": "embedding", "index": index, "embedding": encode(_cut(vector_of(output), size))}
        for index, output in enumerate(outputs)
    ]
    answer: Embeddings = {
        "object": "list",
        "data": data,
        "model": api.model_name,
        "usage": usage_of(prompt_tokens(prepared)),
    }
    return json_response(answer)


def _size(model: ModelConfig, dimensions: int | None) -> int:
    """How many leading numbers of a vector to answer with. Raises InvalidRequest for a model whose leading
    numbers are no embedding of their own.
    """
    whole = model.hidden_size
    if dimensions is None or dimensions == whole:
        return whole
    if dimensions > whole:
        raise InvalidRequest(
            f"dimensions: this model's embeddings have {whole}, got {dimensions}", param="dimensions"
        )
    listed = model.raw.get("matryoshka_dimensions")
    trained = listed if isinstance(listed, list) else []
    if dimensions in trained or (not trained and model.raw.get("is_matryoshka")):
        return dimensions
    shorter = f"{', '.join(map(str, trained))} or {whole}" if trained else f"{whole} alone"
    raise InvalidRequest(
        f"dimensions: this model's embeddings mean something at {shorter}; leave the field out, or, for a"
        " model trained so that they may be cut anywhere, set is_matryoshka to true in its config.json",
        param="dimensions",
    )


def _cut(vector: F32, size: int) -> F32:
    """The leading numbers, again of length 1."""
    if size == len(vector):
        return vector
    cut = vector[:size]
    shorter: F32 = cut / max(np.float32(np.linalg.norm(cut)), np.finfo(np.float32).tiny)
    return shorter


def _numbers(vector: F32) -> list[float]:
    numbers: list[float] = vector.tolist()
    return numbers


def _base64(vector: F32) -> str:
    """float32, little-endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
