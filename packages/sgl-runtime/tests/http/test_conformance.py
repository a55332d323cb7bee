# SPDX-License-Identifier: Apache-2.0
"""Requests made up by schemathesis from /openapi.json: bodies that fit their schema, and some that do not.

No request is a failure of the server; what does not fit is refused; statuses, media types, answers and events
are those that the document promises. That a body which fits is answered is not asked: fields depend on one
another and on the model. `--fuzz-full` has schemathesis itself visit a server on a socket, at length.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from scripted import Script, byte_tokenizer
from served import ROOMY, TOOL_TEMPLATE, Served, listening, served

HANGS_S = 120.0
FULL_EXAMPLES = 100  # per operation


async def _document() -> Any:
    async with served() as server:
        document = (await server.http.get("/openapi.json")).json()
    for shape in document["components"]["schemas"].values():
        if "model" in shape.get("properties", {}) and "Body" in shape["title"]:
            shape["properties"]["model"] = {"enum": ["default", "default", "other"]}
    return document


DOCUMENT = asyncio.run(_document())
OPERATIONS = {
    found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(DOCUMENT).get_all_operations()
}
WITH_FIELDS = [label for label, operation in OPERATIONS.items() if operation.body or operation.query]


class Visited:
    """A server and the loop that it lives on."""

    def __init__(self, server: Served, loop: asyncio.Runner) -> None:
        self._server = server
        self._loop = loop

    def ask(self, case: schemathesis.Case) -> httpx.Response:
        """Raises TimeoutError if there is no answer."""
        prepared = requests.Request(**case.as_transport_kwargs(base_url="http://localhost")).prepare()

        async def ask() -> httpx.Response:
            async with asyncio.timeout(HANGS_S):
                return await self._server.http.request(
                    prepared.method or "",
                    prepared.url or "",
                    content=prepared.body,
                    headers=dict(prepared.headers),
                )

        return self._loop.run(ask())


@pytest.fixture(scope="module")
def visited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visited]:
    context = served(
        Script(),
        tokenizer=byte_tokenizer(template=TOOL_TEMPLATE),
        capacity=ROOMY,
        file_storage_path=str(tmp_path_factory.mktemp("files")),
    )
    with asyncio.Runner() as loop:
        server = loop.run(context.__aenter__())
        yield Visited(server, loop)
        loop.run(context.__aexit__(None, None, None))


def check_events(case: schemathesis.Case, response: httpx.Response) -> None:
    """What schemathesis does not look at: the data of a stream's events."""
    media = DOCUMENT["paths"][case.operation.path][case.method.lower()]["responses"]["200"]["content"]
    schema = media["text/event-stream"]["x-itemSchema"]["properties"]["data"]["contentSchema"]
    reader = jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})
    for line in response.text.splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            reader.validate(json.loads(line.removeprefix("data: ")))


@pytest.mark.parametrize("mode", [*schemathesis.GenerationMode])
@pytest.mark.parametrize("label", WITH_FIELDS)
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(data=st.data())
def test_answers_are_as_described(
    visited: Visited, label: str, mode: schemathesis.GenerationMode, data: st.DataObject
) -> None:
    case = data.draw(OPERATIONS[label].as_strategy(generation_mode=mode))
    response = visited.ask(case)
    excluded = [positive_data_acceptance]
    if case.media_type == "multipart/form-data":
        excluded.append(negative_data_rejection)  # an empty list, or null, is a field that is left out
    case.validate_response(response, excluded_checks=excluded)
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        check_events(case, response)


@pytest.mark.parametrize("label", [label for label in OPERATIONS if label not in WITH_FIELDS])
@settings(max_examples=5, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(data=st.data())
def test_answers_to_requests_without_fields_are_too(
    visited: Visited, label: str, data: st.DataObject
) -> None:
    case = data.draw(OPERATIONS[label].as_strategy())
    case.validate_response(visited.ask(case), excluded_checks=[positive_data_acceptance])


def test_events_are_as_described(visited: Visited) -> None:
    """Bodies that stream, which a generator rarely finds."""
    seen = 0
    for label, operation in OPERATIONS.items():
        for method in DOCUMENT["paths"][operation.path].values():
            content = method.get("requestBody", {}).get("content", {}).get("application/json", {})
            if "text/event-stream" in method["responses"]["200"].get("content", {}):
                case = operation.Case(
                    body={**content["example"], "stream": True}, media_type="application/json"
                )
                response = visited.ask(case)
                assert response.headers["content-type"].startswith("text/event-stream"), label
                check_events(case, response)
                seen += 1
    assert seen >= 5


async def _visit(folder: Path) -> subprocess.CompletedProcess[str]:
    async with listening(
        Script(),
        tokenizer=byte_tokenizer(template=TOOL_TEMPLATE),
        capacity=ROOMY,
        file_storage_path=str(folder / "files"),
    ) as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = [
            f"--max-examples={FULL_EXAMPLES}",
            f"--request-timeout={HANGS_S}",
            "--exclude-checks=positive_data_acceptance",
            "--no-color",
        ]
        return await asyncio.to_thread(
            subprocess.run, [*command, *options], capture_output=True, text=True, cwd=folder
        )


@pytest.mark.timeout(3600)
def test_schemathesis_finds_nothing_at_length(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not request.config.getoption("--fuzz-full", default=False):
        pytest.skip("--fuzz-full")
    done = asyncio.run(_visit(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
