# SPDX-License-Identifier: Apache-2.0
"""The figures at /metrics, read back by Prometheus' own parser, and the request log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted import Script
from served import Served, served, settle

from sgl_runtime.messages import Aborted, Delta, Load, Step, StoppedByLength

pytestmark = pytest.mark.anyio
BODY = {"text": "hello", "sampling_params": {"temperature": 0, "max_new_tokens": 6}}
DASHBOARD = Path(__file__).parents[4] / "docs" / "grafana.json"


async def scrape(server: Served) -> dict[str, float]:
    response = await server.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        sample.name + "".join(f"[{label}]" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_every_token_and_every_end_is_counted_once() -> None:
    async with served(Script(per_step=2)) as server:
        before = await scrape(server)
        assert before["sgl_requests_total[stop]"] == 0
        await server.answer("/generate", BODY)
        await server.answer("/generate", {**BODY, "text": "hello hello"})
        figures = await scrape(server)
    assert figures["sgl_time_to_first_token_seconds_count"] == 2
    assert (
        figures["sgl_inter_token_latency_seconds_count"] == 8
    )  # of 12 tokens the first two have none before
    assert figures["sgl_e2e_request_latency_seconds_count"] == 2
    assert figures["sgl_requests_total[stop]"] == 1
    assert figures["sgl_requests_total[length]"] == 1
    assert figures["sgl_time_to_first_token_seconds_bucket[+Inf]"] == 2
    assert figures["process_resident_memory_bytes"] > 0


async def test_loads_of_the_replicas() -> None:
    script = Script(replicas=2)
    load = Load(
        running=3, waiting=2, slots=100, slots_used=25, slots_cached=50, prompt_tokens=40, cached_tokens=10,
        retractions=7, grammars_compiled=1, grammar_seconds=0.5,
    )  # fmt: skip
    async with served(script) as server:
        script.say(replica=1, load=load)
        script._outbox.put_nowait(Step([], load, 1, {"a": 0.25, "b": 3.0}))
        await settle()
        figures = await scrape(server)
    expected = {
        "num_requests_running": 3, "num_requests_waiting": 2, "kv_cache_usage_ratio": 0.25,
        "kv_cache_cached_ratio": 0.5, "cache_hit_rate": 0.25, "retractions_total": 7,
        "grammars_compiled_total": 1, "grammar_compile_seconds_total": 0.5,
    }  # fmt: skip
    assert {name: figures[f"sgl_{name}[1]"] for name in expected} == expected
    assert figures["sgl_num_requests_running[0]"] == 0
    assert (
        figures["sgl_request_queue_time_seconds_count"],
        figures["sgl_request_queue_time_seconds_sum"],
    ) == (2, 3.25)
    assert figures["sgl_request_queue_time_seconds_bucket[0.2]"] == 0
    assert figures["sgl_request_queue_time_seconds_bucket[0.5]"] == 1


async def test_ends_before_their_time() -> None:
    script = Script(per_step=None)
    async with served(script, max_queued_requests=1) as server:
        asked = [asyncio.create_task(server.post("/generate", {**BODY, "rid": f"r{i}"})) for i in range(10)]
        await settle()
        first, second, third, *_ = script.generates
        script.say(
            Delta(first.rid, [], Aborted("out of memory")), Delta(second.rid, [65], StoppedByLength(1))
        )
        await server.answer("/abort_request", {"rid": "r2"})
        await settle()
        figures = await scrape(server)
        await server.answer("/abort_request", {"abort_all": True})
        await asyncio.gather(*asked)
    assert third.rid in script.aborts
    assert figures["sgl_requests_refused_total"] == 1
    ends = {name: figures[f"sgl_requests_total[{name}]"] for name in ("stop", "length", "abort", "error")}
    assert ends == {"stop": 0, "length": 1, "abort": 1, "error": 1}


async def test_a_probe_is_no_request() -> None:
    async with served() as server:
        assert (await server.http.get("/health_generate")).status_code == 200
        assert (await scrape(server))["sgl_time_to_first_token_seconds_count"] == 0


async def test_the_dashboard_shows_what_there_is() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    async with served() as server:
        names = {name.partition("[")[0] for name in await scrape(server)}
    asked = {word for query in queries for word in _names(query)}
    assert asked <= names
    assert len(asked) > 12


def _names(query: str) -> set[str]:
    words = "".join(
        character if character.isalnum() or character == "_" else " " for character in query
    ).split()
    return {word for word in words if word.startswith("sgl_")}


@pytest.mark.parametrize("content", [False, True])
async def test_a_request_is_logged_without_its_text(content: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    body = {**BODY, "sampling_params": {"temperature": 0, "stop": ["secret"]}, "rid": "me"}
    async with served(log_requests=True, log_requests_content=content, api_key="the key") as server:
        server.http.headers["authorization"] = "Bearer the key"
        await server.answer("/generate", body)
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("request_log")]
    line = json.loads(lines[0])
    assert (line["id"], line["prompt_tokens"], line["completion_tokens"]) == ("me", 5, 6)
    assert line["finish"] == "StoppedByToken"
    assert 0 < line["seconds_to_first_token"] <= line["seconds"]
    assert ("hello" in lines[0], "HELLO" in lines[0], "secret" in lines[0]) == (content,) * 3
    assert "the key" not in caplog.text
