# SPDX-License-Identifier: Apache-2.0
"""What the server says about itself, and the few things one may ask of it beside tokens: flush, abort."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.errors import InvalidRequest, SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import error_response, json_response
from sgl_runtime.http.stream import while_connected
from sgl_runtime.text.chat import ChatTemplate

PROBE_S = 20.0  # for every replica to produce a token


async def health(api: Api, request: Request) -> Response:
    """200 while this process lives; asks nothing of the engine."""
    return Response()


async def health_generate(api: Api, request: Request) -> Response:
    """200 when every replica has just produced a token, 503 with the reason otherwise."""
    try:
        await while_connected(request.receive, api.client.probe(PROBE_S))
    except SglError as error:
        return error_response(request, 503, error.message)
    return Response()


async def get_model_info(api: Api, request: Request) -> Response:
    return json_response(
        {
            "model_path": api.model_path,
            "served_model_name": api.model_name,
            "is_generation": True,
            "architecture": api.model.architecture,
            "model_type": api.model.model_type,
            "context_length": api.limits.context_length,
            "vocab_size": api.limits.vocab_size,
            "chat_template": None if api.chat_template is None else _markers(api.chat_template),
        }
    )


def _markers(template: ChatTemplate) -> dict[str, Any] | None:
    """How to build a chat turn by turn; None if the template's chats are not turns one after another."""
    roles = template.role_markers()
    if roles is None:
        return None
    return {"roles": roles, "default_system": template.default_system, "stop": template.stop}


async def get_server_args(api: Api, request: Request) -> Response:
    """Every field of ServeConfig; the key itself is not told."""
    fields = msgspec.structs.asdict(api.config)
    return json_response({**fields, "api_key": None if api.config.api_key is None else "***"})


async def server_info(api: Api, request: Request) -> Response:
    replicas = [
        {
            "in_flight": in_flight,
            "capacity": msgspec.structs.asdict(capacity),
            "load": msgspec.structs.asdict(load),
        }
        for in_flight, capacity, load in zip(
            api.client.in_flight, api.capacities, api.client.loads, strict=True
        )
    ]
    answer: dict[str, Any] = {
        "version": version("sgl-runtime"),
        "model": api.model_name,
        "uptime_seconds": round(time.monotonic() - api.awake, 3),
        "replicas": replicas,
    }
    return json_response(answer)


async def flush_cache(api: Api, request: Request) -> Response:
    if await while_connected(request.receive, api.client.flush()):
        return json_response({"flushed": True})
    return error_response(
        request, 409, "the prefix cache was not flushed: requests are running or waiting; try when idle"
    )


class AbortBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    rid: str | None = None
    abort_all: bool = False


_ABORT = msgspec.json.Decoder(AbortBody)


async def abort_request(api: Api, request: Request) -> Response:
    """End requests by name; their answers say so. 200 with 0 for a name that is not in flight: it may just
    have ended.
    """
    body = await read(request, _ABORT)
    if (body.rid is not None) == body.abort_all:
        raise InvalidRequest("give either rid or abort_all: true", param="rid")
    return json_response({"aborted": api.client.abort(body.rid)})
