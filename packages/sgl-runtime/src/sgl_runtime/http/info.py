# SPDX-License-Identifier: Apache-2.0
"""What the server says about itself, and the few things one may ask of it beside tokens: flush, abort."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TypedDict

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import InvalidRequest, SglError
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import error_response, json_response
from sgl_runtime.http.operation import NOTHING, operation
from sgl_runtime.http.stream import while_connected
from sgl_runtime.text.chat import ChatTemplate

_SECRETS = ("api_key", "ssl_keyfile_password")
PROBE_S = 20.0  # for every replica to produce a token


class Markers(TypedDict):
    """How to build a chat turn by turn: what the template writes before and after each role's text."""

    roles: dict[str, tuple[str, str]]
    default_system: str | None
    stop: tuple[str, ...]


class ModelInfo(TypedDict):
    model_path: str
    served_model_name: str
    is_generation: bool
    architecture: str
    model_type: str
    context_length: int
    vocab_size: int
    has_chat_template: bool
    chat_template: Markers | None  # None without one, or if its chats are not turns one after another


class ReplicaInfo(TypedDict):
    in_flight: int  # samples
    capacity: dict[str, int | str]
    load: dict[str, float]


class ServerInfo(TypedDict):
    version: str
    model: str
    uptime_seconds: float
    replicas: list[ReplicaInfo]


class FlushAnswer(TypedDict):
    flushed: bool


class AbortAnswer(TypedDict):
    aborted: int  # samples


@operation(answers=NOTHING)
async def health(api: Api, request: Request) -> Response:
    """Say that this process lives. Asks nothing of the engine."""
    return Response()


@operation(answers=NOTHING)
async def health_generate(api: Api, request: Request) -> Response:
    """Have every replica produce a token, or a vector. 503 with the reason if one does not."""
    try:
        await while_connected(request.receive, api.client.probe(PROBE_S))
    except SglError as error:
        return error_response(request, 503, error.message)
    return Response()


@operation(answers=ModelInfo)
async def get_model_info(api: Api, request: Request) -> Response:
    """Describe the model: its limits, and what its chat template writes around each role."""
    answer: ModelInfo = {
        "model_path": api.model_path,
        "served_model_name": api.model_name,
        "is_generation": api.limits.answers == "text",
        "architecture": api.model.architecture,
        "model_type": api.model.model_type,
        "context_length": api.limits.context_length,
        "vocab_size": api.limits.vocab_size,
        "has_chat_template": api.chat_template is not None,
        "chat_template": None if api.chat_template is None else _markers(api.chat_template),
    }
    return json_response(answer)


def _markers(template: ChatTemplate) -> Markers | None:
    roles = template.role_markers()
    if roles is None:
        return None
    return {"roles": roles, "default_system": template.default_system, "stop": template.stop}


@operation(answers=ServeConfig)
async def get_server_args(api: Api, request: Request) -> Response:
    """Tell how the server was started: every flag. Secrets themselves are not told."""
    hidden = {name: "***" for name in _SECRETS if getattr(api.config, name) is not None}
    return json_response(msgspec.structs.replace(api.config, **hidden))


@operation(answers=ServerInfo)
async def server_info(api: Api, request: Request) -> Response:
    """Tell the version, and the capacity and load of each replica."""
    replicas: list[ReplicaInfo] = [
        {
            "in_flight": in_flight,
            "capacity": msgspec.structs.asdict(capacity),
            "load": msgspec.structs.asdict(load),
        }
        for in_flight, capacity, load in zip(
            api.client.in_flight, api.capacities, api.client.loads, strict=True
        )
    ]
    answer: ServerInfo = {
        "version": version("sgl-runtime"),
        "model": api.model_name,
        "uptime_seconds": round(time.monotonic() - api.awake, 3),
        "replicas": replicas,
    }
    return json_response(answer)


@operation(answers=FlushAnswer, refuses={409: "Requests are running or waiting; nothing was flushed."})
async def flush_cache(api: Api, request: Request) -> Response:
    """Empty the prefix cache. Done only while no request runs."""
    if await while_connected(request.receive, api.client.flush()):
        flushed: FlushAnswer = {"flushed": True}
        return json_response(flushed)
    return error_response(
        request, 409, "the prefix cache was not flushed: requests are running or waiting; try when idle"
    )


class AbortBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    rid: str | None = None
    abort_all: bool = False


_ABORT = msgspec.json.Decoder(AbortBody)


@operation(reads=_ABORT, answers=AbortAnswer, example={"rid": "mine"})
async def abort_request(api: Api, request: Request) -> Response:
    """End requests by name. Their answers say so. 0 for a name that is not in flight: it may just have
    ended.
    """
    body = await read(request, _ABORT)
    if (body.rid is not None) == body.abort_all:
        raise InvalidRequest("give either rid or abort_all: true", param="rid")
    answer: AbortAnswer = {"aborted": api.client.abort(body.rid)}
    return json_response(answer)
