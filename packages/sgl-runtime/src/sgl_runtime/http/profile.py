# SPDX-License-Identifier: Apache-2.0
"""Recording where the time of the steps goes, on request.

The files go into the folder of `--profile`, or without it into a new temporary one: where a server writes
is for those to say who start it, not for those who can reach it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import error_response, json_response
from sgl_runtime.http.stream import while_connected
from sgl_runtime.messages import Profiled


class ProfileBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Has no fields: what somebody asks for is refused by its name, not ignored."""


_PROFILE = msgspec.json.Decoder(ProfileBody)


async def start_profile(api: Api, request: Request) -> Response:
    """Begin on every replica; 409 if one is recording already."""
    await read(request, _PROFILE, empty=b"{}")
    answers = await while_connected(request.receive, api.client.profile(None))
    return _refused(request, answers) or json_response({"profiling": True})


async def stop_profile(api: Api, request: Request) -> Response:
    """End it, and write a trace and a table for each replica; 409 if nothing is being recorded."""
    await read(request, _PROFILE, empty=b"{}")
    folder = api.config.profile or str(Path(tempfile.gettempdir(), f"sgl-profile-{uuid4().hex}"))
    answers = await while_connected(request.receive, api.client.profile(folder))
    replicas = [{"trace": answer.trace, "table": answer.table} for answer in answers]
    return _refused(request, answers) or json_response({"replicas": replicas})


def _refused(request: Request, answers: list[Profiled]) -> Response | None:
    for answer in answers:
        if answer.error:
            return error_response(request, 409 if answer.conflict else 500, answer.error)
    return None
