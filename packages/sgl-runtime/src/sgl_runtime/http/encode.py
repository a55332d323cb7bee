# SPDX-License-Identifier: Apache-2.0
"""`POST /encode`: the vectors of a model that generates no text, embeddings or scores of classes as they are.

Field names are those of SGLang 0.2.
"""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prefill import Pool, pooling
from sgl_runtime.engine.prepare import Given
from sgl_runtime.engine.stream import Output
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.native import FinishReason, finish_reason
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prefill import outputs_of, vector_of
from sgl_runtime.http.prompts import names, prompts_of
from sgl_runtime.http.stream import while_connected
from sgl_runtime.http.unsupported import Unsupported, refuse_unsupported, unless


class EncodeBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of `text` and `input_ids`."""

    text: str | list[str] | None = None
    input_ids: list[int | list[int]] | None = None
    image_data: Unsupported = None
    sampling_params: Annotated[Any, unless({})] = None
    rid: str | list[str] | None = None


class EncodedMeta(TypedDict):
    id: str
    prompt_tokens: int
    cached_tokens: int
    finish_reason: FinishReason


class Encoded(TypedDict):
    embedding: list[float]
    meta_info: EncodedMeta


_DECODER = msgspec.json.Decoder(EncodeBody)


@operation(reads=_DECODER, answers=Encoded | list[Encoded], example={"text": "The sun is"})
async def encode(api: Api, request: Request) -> ASGIApp:
    """The vector of one text or of many: an embedding, or scores of classes."""
    body = await read(request, _DECODER)
    refuse_unsupported(body)
    given = prompts_of(body.text, body.input_ids)
    tokens = await api.preparation.tokens(
        [Given(prompt=prompt, source=given.source(i)) for i, prompt in enumerate(given.prompts)]
    )
    named = names(body.rid, len(tokens), given.many)
    prepared = pooling(
        [
            Pool(ids, prompt if isinstance(prompt, str) else None, name, rid)
            for ids, prompt, (name, rid) in zip(tokens, given.prompts, named, strict=True)
        ],
        home=api.client.peers.home,
    )
    answers = [
        _answer(output) for output in await while_connected(request.receive, outputs_of(api, prepared))
    ]
    return json_response(answers if given.many else answers[0])


def _answer(output: Output) -> Encoded:
    assert output.finish is not None, "it has ended"
    meta: EncodedMeta = {
        "id": output.sample.id,
        "prompt_tokens": len(output.sample.generate.tokens),
        "cached_tokens": output.cached_tokens,
        "finish_reason": finish_reason(output.finish),
    }
    return {"embedding": vector_of(output).tolist(), "meta_info": meta}
