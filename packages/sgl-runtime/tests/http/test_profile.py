# SPDX-License-Identifier: Apache-2.0
"""POST /start_profile and /stop_profile: in order, on every replica, and into no folder of the client's."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from scripted import Script
from served import listening, served

from sgl_runtime.messages import Profile


def test_every_replica_is_asked_and_tells_where_it_wrote() -> None:
    async def scene() -> tuple[list[Any], Script]:
        script = Script(replicas=2)
        async with served(script, data_parallel_size=2, profile="traces") as server:
            order = ("stop", "start", "start", "stop", "stop")
            return [await server.post(f"/{verb}_profile", b"") for verb in order], script

    answers, script = asyncio.run(scene())
    assert [answer.status_code for answer in answers] == [409, 200, 409, 200, 409]
    assert answers[0].json()["error"]["message"] == "not now"
    assert [replica["trace"] for replica in answers[3].json()["replicas"]] == [
        "traces/replica0.trace.json",
        "traces/replica1.trace.json",
    ]
    assert sum(isinstance(message, Profile) for _, message in script.received) == 10


@pytest.mark.parametrize("flags", [{}, {"profile": "traces"}])
def test_the_folder_is_the_operators(flags: dict[str, Any]) -> None:
    async def scene() -> tuple[Any, Any, Any]:
        async with served(Script(), **flags) as server:
            refused = await server.post("/start_profile", {"output_dir": "/etc"})
            started = await server.answer("/start_profile", {})
            return refused, started, await server.answer("/stop_profile", {})

    refused, started, stopped = asyncio.run(scene())
    assert refused.status_code == 400 and refused.json()["error"]["param"] == "output_dir"
    assert started == {"profiling": True}
    (replica,) = stopped["replicas"]
    parent = Path(replica["trace"]).parent
    assert str(parent) == "traces" if flags else parent.name.startswith("sgl-profile-")
    assert replica["table"] == "a table"


def test_a_server_that_stops_writes_what_it_has_recorded(tmp_path: Path) -> None:
    async def scene() -> Script:
        script = Script()
        script.profiling = {0}
        async with listening(script, profile=str(tmp_path)) as server:
            server.stop.set()
            await server.ending
        return script

    script = asyncio.run(scene())
    assert [message.folder for _, message in script.received if isinstance(message, Profile)] == [
        str(tmp_path)
    ]
