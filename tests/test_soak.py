# SPDX-License-Identifier: Apache-2.0
"""Eight hundred mixed requests, some of them bad, some abandoned: afterwards every slot is free."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live import Server, load_of, running

REQUESTS = 800
AT_ONCE = 64
SLOTS = 3000  # few enough that requests are retracted


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[Server]:
    flags = ("--model-path", str(tiny), "--max-total-tokens", str(SLOTS), "--chunked-prefill-size", "48")
    with running(*flags, "--schedule-conservativeness", "0.1", "--log-level", "warning") as server:
        yield server


async def until_idle(client: httpx.AsyncClient) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while True:
            load = load_of((await client.get("/server_info")).json())
            if not load["running"] and not load["waiting"]:
                return load
            await asyncio.sleep(0.02)


def random_body(rng: random.Random) -> dict[str, Any]:
    shared = [65 + n % 26 for n in range(rng.choice((0, 40, 150)))]
    sampling: dict[str, Any] = {
        "max_new_tokens": rng.choice((0, 1, 8, 40, 90)),
        "temperature": rng.choice((0, 0.7, 1.3)),
        "top_p": rng.choice((1.0, 0.8)),
        "top_k": rng.choice((-1, 5)),
        "min_p": rng.choice((0.0, 0.1)),
        "frequency_penalty": rng.choice((0.0, 0.5)),
        "ignore_eos": rng.random() < 0.5,
        "stop": rng.choice((None, "a", ["bc", "é"])),
    }
    body: dict[str, Any] = {
        "input_ids": shared + [rng.randrange(256) for _ in range(rng.randrange(1, 60))],
        "sampling_params": sampling,
        "stream": rng.random() < 0.4,
    }
    if rng.random() < 0.2:
        body |= {"return_logprob": True, "logprob_start_len": rng.choice((-1, 0, 1)), "top_logprobs_num": 2}
    if rng.random() < 0.1:
        sampling["n"] = 3
    if rng.random() < 0.05:
        sampling["top_p"] = 7  # refused
    return body


async def one(client: httpx.AsyncClient, rng: random.Random, number: int) -> str:
    """Send one request and let it end, leave it, or abort it by name."""
    body = {**random_body(rng), "rid": f"soak-{number}"}
    fate = rng.random()
    request = client.build_request("POST", "/generate", json=body)
    if fate < 0.15:  # leave after a moment
        try:
            await asyncio.wait_for(client.send(request), rng.random() * 0.2)
        except TimeoutError:
            return "left"
        return "was too late to leave"
    sending = asyncio.create_task(client.send(request))
    if fate < 0.3 and "n" not in body["sampling_params"]:
        await asyncio.sleep(rng.random() * 0.2)
        await client.post("/abort_request", json={"rid": body["rid"]})
    response = await sending
    if body["sampling_params"]["top_p"] == 7:
        assert response.status_code == 400 and "top_p" in response.text
        return "refused"
    assert response.status_code == 200, response.text
    if body["stream"]:
        assert response.text.endswith("data: [DONE]\n\n")
        return "streamed"
    finishes = [a["meta_info"]["finish_reason"]["type"] for a in as_list(response.json())]
    assert set(finishes) <= {"length", "stop", "abort"}
    return finishes[0]


def as_list(answer: Any) -> list[Any]:
    return answer if isinstance(answer, list) else [answer]


def test_nothing_leaks(server: Server) -> None:
    async def soak() -> tuple[Counter[str], dict[str, Any]]:
        limits = httpx.Limits(max_connections=AT_ONCE + 8)
        async with httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits) as client:
            gate = asyncio.Semaphore(AT_ONCE)

            async def gated(number: int) -> str:
                async with gate:
                    return await one(client, random.Random(number), number)

            ends = Counter(await asyncio.gather(*(gated(number) for number in range(REQUESTS))))
            await until_idle(client)
            assert (await client.post("/flush_cache")).status_code == 200
            return ends, await until_idle(client)

    ends, load = asyncio.run(soak())
    assert sum(ends.values()) == REQUESTS
    assert (
        min(ends["left"], ends["abort"], ends["refused"], ends["streamed"], ends["length"], ends["stop"]) > 20
    )
    assert load["retractions"] > 0
    assert (load["slots_used"], load["slots_cached"]) == (0, 0), load
    assert server.generate(text="still", sampling_params={"max_new_tokens": 4, "ignore_eos": True})["text"]


def test_a_client_that_leaves_frees_its_request(server: Server) -> None:
    """Within one step: far fewer tokens are generated than were asked for."""

    async def leave() -> tuple[int, dict[str, Any]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            before = (await until_idle(client))["generated_tokens"]
            for stream in (True, False):
                body = {
                    "text": "x",
                    "sampling_params": {"max_new_tokens": 400, "ignore_eos": True},
                    "stream": stream,
                }
                sending = asyncio.create_task(client.post("/generate", json=body))
                while not load_of((await client.get("/server_info")).json())["running"]:
                    await asyncio.sleep(0)
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
                load = await until_idle(client)
            return load["generated_tokens"] - before, load

    generated, load = asyncio.run(leave())
    assert generated < 2 * 400
    assert load["slots_used"] == 0


BAD: list[tuple[dict[str, Any], str]] = [
    ({"text": "x", "sampling_params": {"temperature": "hot"}}, "temperature"),
    ({"text": "x", "unknown_field": 1}, "unknown_field"),
    ({"text": "x", "sampling_params": {"tempratur": 1}}, "tempratur"),
    ({"text": ""}, "text"),
    ({"input_ids": []}, "input_ids"),
    ({}, "text"),
    ({"text": "x", "input_ids": [1]}, "input_ids"),
    ({"input_ids": [1] * 5000}, "context"),
    ({"text": "x", "sampling_params": {"max_new_tokens": 10**9}}, "max_new_tokens"),
    ({"input_ids": [10**6]}, "input_ids"),
    ({"text": "x", "sampling_params": {"top_k": 2**31}}, "top_k"),
    ({"text": "x", "sampling_params": {"top_k": 10**30}}, "top_k"),
    ({"text": "x", "sampling_params": {"temperature": 1e308}}, "temperature"),
    ({"text": "x", "sampling_params": {"repetition_penalty": 1e-38}}, "repetition_penalty"),
    ({"text": "x", "sampling_params": {"stop_token_ids": [2**40]}}, "stop_token_ids"),
    ({"text": "x", "sampling_params": {"logit_bias": {"99999999999": 1}}}, "logit_bias"),
    ({"input_ids": [-1]}, "input_ids"),
    ({"text": "x", "sampling_params": {"regex": "a("}}, "regex"),
]


@pytest.mark.parametrize(("body", "named"), BAD, ids=lambda case: str(case)[:50])
def test_bad_input_is_refused_by_name(server: Server, body: dict[str, Any], named: str) -> None:
    response = server.http.post("/generate", json=body)
    assert response.status_code == 400
    assert named in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "content",
    [
        b'{"text": "x", "sampling_params": {"temperature": NaN}}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800"}',
        b"not json",
        b"",
        b'["text"]',
    ],
)
def test_bodies_that_are_not_json(server: Server, content: bytes) -> None:
    response = server.http.post("/generate", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["message"]
    assert server.load()["slots_used"] == 0
    assert server.generate(text="unharmed", sampling_params={"max_new_tokens": 2, "ignore_eos": True})["text"]
