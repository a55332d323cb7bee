# SPDX-License-Identifier: Apache-2.0
"""`/v1/batches`: ask for them, look at them, end them. Carrying them out is the runner's."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import convert, read
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.batches.lines import ENDPOINTS
from sgl_runtime.http.openai.batches.objects import BatchBody, BatchQuery, page
from sgl_runtime.http.openai.batches.store import Store

_DECODER = msgspec.json.Decoder(BatchBody)


async def create_batch(api: Api, request: Request) -> Response:
    body = await read(request, _DECODER)
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"endpoint: {body.endpoint[:100]!r} takes no batches; {', '.join(ENDPOINTS)} do", param="endpoint"
        )
    batch = await api.storage.do(Store.add_batch, body)
    api.storage.changed.set()
    return json_response(batch)


async def list_batches(api: Api, request: Request) -> Response:
    batches, more = await api.storage.do(Store.batches, convert(request.query_params, BatchQuery))
    return json_response(page(batches, more=more))


async def get_batch(api: Api, request: Request) -> Response:
    return json_response(await api.storage.do(Store.batch, request.path_params["id"]))


async def cancel_batch(api: Api, request: Request) -> Response:
    batch = await api.storage.do(Store.cancel, request.path_params["id"])
    api.storage.changed.set()
    return json_response(batch)
