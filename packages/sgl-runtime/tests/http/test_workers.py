# SPDX-License-Identifier: Apache-2.0
"""Several api processes over one set of replicas: whichever a client comes to, it is one server."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripted import Script
from served import EMBEDDINGS, Mailbox, Served, listening, settle, workers

from sgl_runtime.engine import peers
from sgl_runtime.messages import Delta, Load, Step, StoppedByLength, home_of

pytestmark = pytest.mark.anyio
BODY = {"text": "hello", "sampling_params": {"temperature": 0}}


async def scrape(server: Served) -> dict[str, float]:
    text = (await server.http.get("/metrics")).text
    return {
        sample.name + "".join(f"[{label}]" for label in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_answers_go_to_the_process_that_asked() -> None:
    script = Script(replicas=2)
    async with workers(script, 3) as servers:
        texts = [f"prompt {number}" for number in range(12)]
        answers = await asyncio.gather(
            *(servers[i % 3].answer("/generate", {**BODY, "text": text}) for i, text in enumerate(texts))
        )
        streams = await asyncio.gather(
            *(server.events("/generate", {**BODY, "stream": True}) for server in servers)
        )
    assert [answer["text"] for answer in answers] == [text.upper() for text in texts]
    assert [events[-1]["text"] for events in streams] == ["HELLO"] * 3
    assert [sum(home_of(generate.rid) == home for generate in script.generates) for home in range(3)] == [
        5
    ] * 3


async def test_so_do_vectors_and_scores() -> None:
    async with workers(Script(vector=lambda generate: [0.6, 0.8]), capacity=EMBEDDINGS) as servers:
        for server in servers:
            assert (await server.answer("/encode", {"text": "hello"}))["embedding"]
            assert (await server.answer("/v1/embeddings", {"input": ["a", "b"]}))["data"][1]["embedding"]
    async with workers(Script()) as servers:
        for server in servers:
            asked = {"query": "hello", "items": ["a", "b"], "label_token_ids": [1, 2]}
            assert len((await server.answer("/v1/score", asked))["scores"]) == 2
            decided = await server.answer("/v1/decisions", {"prompt": "hello", "choices": ["a", "b"]})
            assert decided["choices"]


async def test_no_two_processes_draw_the_same_seeds() -> None:
    async with workers(Script(), random_seed=7) as servers:
        for server in servers:
            await server.answer("/generate", {"text": "hello"})
        first, second = servers[0].script.generates
    assert first.sampling.seed != second.sampling.seed


async def test_a_request_is_aborted_wherever_it_is() -> None:
    script = Script(per_step=None)
    async with workers(script) as (one, two):
        mine = asyncio.create_task(one.answer("/generate", {**BODY, "rid": "mine"}))
        others = [asyncio.create_task(server.answer("/generate", BODY)) for server in (one, two, two)]
        await settle()
        assert await two.answer("/abort_request", {"rid": "mine"}) == {"aborted": 1}
        assert (await mine)["meta_info"]["finish_reason"]["type"] == "abort"
        assert await one.answer("/abort_request", {"rid": "mine"}) == {"aborted": 0}
        assert await one.answer("/abort_request", {"abort_all": True}) == {"aborted": 3}
        await asyncio.gather(*others)
        assert len(script.aborts) == 4


async def test_flush_probe_and_profile_work_from_each_of_them() -> None:
    script = Script(replicas=2)
    async with workers(script) as servers:
        for server in servers:
            assert await server.answer("/flush_cache", b"") == {"flushed": True}
            assert (await server.http.get("/health_generate")).status_code == 200
        await servers[0].answer("/start_profile", b"")
        assert len((await servers[1].answer("/stop_profile", b""))["replicas"]) == 2


async def test_a_token_of_another_process_is_a_sign_of_life() -> None:
    script = Script(per_step=None)
    async with workers(script) as (one, _):
        probing = asyncio.create_task(one.http.get("/health_generate"))
        await settle()
        script.say(load=Load(generated_tokens=1))
        assert (await probing).status_code == 200


async def test_figures_are_of_all_of_them() -> None:
    script = Script(per_step=2)
    async with workers(script) as (one, two):
        await asyncio.gather(*(server.answer("/generate", BODY) for server in (one, two, two)))
        script._outbox.put_nowait(Step([], Load(running=2), 0, {"1.a": 0.25}))
        await settle()
        figures = [await scrape(server) for server in (one, two)]
        script.per_step = None
        asked = [asyncio.create_task(server.answer("/generate", BODY)) for server in (one, two, two)]
        await settle()
        infos = [await server.http.get("/server_info") for server in (one, two)]
        for generate in script.generates[3:]:
            script.say(Delta(generate.rid, [65], StoppedByLength(1)))
        await asyncio.gather(*asked)
    for told in figures:
        assert told["sgl_requests_total[stop]"] == 3
        assert told["sgl_time_to_first_token_seconds_count"] == 3
        assert told["sgl_request_queue_time_seconds_count"] == 1
        assert told["sgl_num_requests_running[0]"] == 2
        assert told["process_resident_memory_bytes"] > 0 and told["process_cpu_seconds_total"] > 0
    assert [info.json()["replicas"][0]["in_flight"] for info in infos] == [3, 3]


async def test_a_response_is_found_continued_and_deleted_from_each_of_them() -> None:
    async with workers(Script()) as (one, two):
        first = await one.answer("/v1/responses", {"input": "hello"})
        found = await two.http.get(f"/v1/responses/{first['id']}")
        assert found.json() == first
        body = {"input": "more", "previous_response_id": first["id"]}
        assert (await two.answer("/v1/responses", body))["previous_response_id"] == first["id"]
        assert (await two.http.delete(f"/v1/responses/{first['id']}")).json()["deleted"]
        for server in (one, two):
            missing = await server.http.get(f"/v1/responses/{first['id']}")
            assert missing.status_code == 404


async def test_files_and_batches_are_refused_where_their_store_would_have_two_owners() -> None:
    async with workers(Script()) as (_, two):
        for path in ("/v1/files", "/v1/batches"):
            refused = await two.http.get(path)
            assert refused.status_code == 400 and "start without --http-workers" in refused.text


async def test_a_process_that_has_left_is_not_waited_for() -> None:
    async with workers(Script(), 3) as (one, two, three):
        await two.answer("/generate", BODY)
        three.api.client.peers.hear = lambda said: None  # type: ignore[method-assign]
        asked = asyncio.create_task(scrape(one))
        await settle()
        assert not asked.done()
        async with asyncio.timeout(peers._ANSWER_S / 2):
            three.api.client.peers.leave()
            assert (await asked)["sgl_requests_total[stop]"] == 1
            assert (await scrape(one))["sgl_requests_total[stop]"] == 1
            assert await two.answer("/abort_request", {"abort_all": True}) == {"aborted": 0}


async def test_a_process_that_ends_says_so() -> None:
    mailboxes = [Mailbox(), Mailbox()]
    async with listening(Script(), peers=peers.Peers(0, mailboxes)) as server:
        server.stop.set()
        await server.ending
    assert mailboxes[1]._messages.get_nowait() == peers.Left(0)


async def test_a_process_that_does_not_answer_is_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_ANSWER_S", 0.05)
    async with workers(Script()) as (one, two):
        two.api.client.peers.hear = lambda said: None  # type: ignore[method-assign]
        refused = await one.http.get("/metrics")
        assert refused.status_code == 503 and "another process" in refused.text
