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
from sgl_runtime.http.openai.batches.objects import Batch, BatchBody, BatchList, BatchQuery
from sgl_runtime.http.openai.batches.store import Store
from sgl_runtime.http.operation import operation

_DECODER = msgspec.json.Decoder(BatchBody)
_UNKNOWN = {404: "There is no such batch."}


@operation(
    reads=_DECODER,
    answers=Batch,
    refuses={
        404: "There is no such file.",
        429: "Too many batches are under way (--max-queued-batches).",
        507: "The batch cannot be kept: the disk is full.",
    },
)
async def create_batch(api: Api, request: Request) -> Response:
    """Have the requests of a file answered beside the traffic. The answers become a file."""
    body = await read(request, _DECODER)
    if body.endpoint not in ENDPOINTS:
        raise InvalidRequest(
            f"endpoint: {body.endpoint[:100]!r} takes no batches; {', '.join(ENDPOINTS)} do", param="endpoint"
        )
    batch = await api.storage.do(Store.add_batch, body, most=api.config.max_queued_batches)
    api.storage.changed.set()
    return json_response(batch)


@operation(query=BatchQuery, answers=BatchList, refuses=_UNKNOWN)
async def list_batches(api: Api, request: Request) -> Response:
    """List the batches, the latest first."""
    batches, more = await api.storage.do(Store.batches, convert(request.query_params, BatchQuery))
    return json_response(BatchList.of(batches, more=more))


@operation(answers=Batch, refuses=_UNKNOWN)
async def get_batch(api: Api, request: Request) -> Response:
    """Describe a batch, and how far it is."""
    return json_response(await api.storage.do(Store.batch, request.path_params["id"]))


@operation(answers=Batch, refuses={**_UNKNOWN, 409: "The batch is over."})
async def cancel_batch(api: Api, request: Request) -> Response:
    """End a batch. What is answered already is kept."""
    batch = await api.storage.do(Store.cancel, request.path_params["id"])
    api.storage.changed.set()
    return json_response(batch)
