# SPDX-License-Identifier: Apache-2.0
"""Recording where the time of the steps goes, on request.

The files go into the folder of `--profile`, or without it into a new temporary one: where a server writes
is for those to say who start it, not for those who can reach it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TypedDict
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import error_response, json_response
from sgl_runtime.http.operation import operation
from sgl_runtime.http.stream import while_connected
from sgl_runtime.messages import Profiled


class ProfileBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Has no fields: what somebody asks for is refused by its name, not ignored."""


class ProfilingAnswer(TypedDict):
    profiling: bool


class ReplicaProfile(TypedDict):
    trace: str | None  # where it lies
    table: str


class ProfileAnswer(TypedDict):
    replicas: list[ReplicaProfile]


_PROFILE = msgspec.json.Decoder(ProfileBody)


@operation(
    reads=_PROFILE, optional=True, answers=ProfilingAnswer, refuses={409: "A replica is recording already."}
)
async def start_profile(api: Api, request: Request) -> Response:
    """Begin to record where the time of the steps goes, on every replica."""
    await read(request, _PROFILE, empty=b"{}")
    answers = await while_connected(request.receive, api.client.profile(None))
    answer: ProfilingAnswer = {"profiling": True}
    return _refused(request, answers) or json_response(answer)


@operation(reads=_PROFILE, optional=True, answers=ProfileAnswer, refuses={409: "Nothing is being recorded."})
async def stop_profile(api: Api, request: Request) -> Response:
    """End the recording, and write a trace and a table for each replica."""
    await read(request, _PROFILE, empty=b"{}")
    folder = api.config.profile or str(Path(tempfile.gettempdir(), f"sgl-profile-{uuid4().hex}"))
    answers = await while_connected(request.receive, api.client.profile(folder))
    written: ProfileAnswer = {
        "replicas": [{"trace": answer.trace, "table": answer.table} for answer in answers]
    }
    return _refused(request, answers) or json_response(written)


def _refused(request: Request, answers: list[Profiled]) -> Response | None:
    for answer in answers:
        if answer.error:
            return error_response(request, 409 if answer.conflict else 500, answer.error)
    return None
