# SPDX-License-Identifier: Apache-2.0
"""Endpoints of models that answer with vectors: the official client, the native one, and who refuses whom."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import embedding_create_params
from scripted import Script, vector_to
from served import EMBEDDINGS, SCORES, Served, listening, served, settle

from sgl_runtime.http.openai.embeddings import EmbeddingsBody
from sgl_runtime.messages import Aborted, Delta, Generate, Sampling

pytestmark = pytest.mark.anyio
TEXTS = ["hello", "Wörld", "a"]


def expected(text: str) -> Any:
    """The script's vector of a text, whose tokens are its bytes."""
    return np.array(vector_to(Generate("", list(text.encode()), Sampling())), np.float32)


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with served(Script(vector=vector_to), capacity=EMBEDDINGS) as running:
        yield running


async def test_the_official_client_gets_the_vectors_as_numbers_and_as_bytes() -> None:
    async with (
        listening(Script(vector=vector_to), capacity=EMBEDDINGS, api_key="secret") as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client,
    ):
        for more in ({"encoding_format": "float"}, {}):  # without: it asks for base64, and decodes it
            answer = await client.embeddings.create(model="default", input=TEXTS, user="me", **more)  # type: ignore[arg-type]
            assert [entry.index for entry in answer.data] == [0, 1, 2]
            for text, entry in zip(TEXTS, answer.data, strict=True):
                assert np.array_equal(np.array(entry.embedding, np.float32), expected(text))
            assert answer.usage.prompt_tokens == answer.usage.total_tokens == 5 + 6 + 1
        raw = await client.embeddings.with_raw_response.create(
            model="default", input=[104, 105], encoding_format="base64"
        )
        [entry] = raw.http_response.json()["data"]
        assert np.array_equal(np.frombuffer(base64.b64decode(entry["embedding"]), "<f4"), expected("hi"))


async def test_every_form_of_input(server: Served) -> None:
    forms: list[tuple[Any, list[str]]] = [
        ("hi", ["hi"]),
        (["hi"], ["hi"]),
        (["hi", "ho"], ["hi", "ho"]),
        ([104, 105], ["hi"]),
        ([[104, 105]], ["hi"]),
        ([[104, 105], [104, 111]], ["hi", "ho"]),
    ]
    for given, texts in forms:
        answer = await server.answer("/v1/embeddings", {"input": given})
        assert (answer["object"], answer["model"]) == ("list", "tiny")
        assert [entry["embedding"] for entry in answer["data"]] == [expected(text).tolist() for text in texts]
        assert answer["usage"]["prompt_tokens"] == 2 * len(texts)
    assert all(generate.sampling.max_new_tokens == 0 for generate in server.script.generates)


async def test_every_parameter_of_the_official_client_has_a_field() -> None:
    theirs = set(embedding_create_params.EmbeddingCreateParams.__annotations__)
    assert theirs == set(EmbeddingsBody.__struct_fields__)


@pytest.mark.parametrize("raw", [{"is_matryoshka": True}, {"matryoshka_dimensions": [16, 32]}])
async def test_a_vector_that_may_be_cut_is_of_length_one_again(raw: dict[str, Any]) -> None:
    async with served(Script(vector=vector_to), capacity=EMBEDDINGS, raw=raw) as server:
        for size in (16, 64):
            answer = await server.answer("/v1/embeddings", {"input": "hi", "dimensions": size})
            head = expected("hi")[:size]
            np.testing.assert_allclose(answer["data"][0]["embedding"], head / np.linalg.norm(head), rtol=1e-6)


@pytest.mark.parametrize(
    ("raw", "size", "words"),
    [
        ({}, 16, "is_matryoshka"),
        ({}, 65, "have 64"),
        ({"is_matryoshka": True}, 65, "have 64"),
        ({"is_matryoshka": True}, 0, "dimensions"),
        ({"matryoshka_dimensions": [16, 32]}, 24, "16, 32 or 64"),
        ({"matryoshka_dimensions": "all"}, 16, "64 alone"),
    ],
)
async def test_a_length_that_means_nothing_is_refused(raw: dict[str, Any], size: int, words: str) -> None:
    script = Script(vector=vector_to)
    async with served(script, capacity=EMBEDDINGS, raw=raw) as server:
        response = await server.post("/v1/embeddings", {"input": "hi", "dimensions": size})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "dimensions")
        assert words in response.text
        assert script.received == []


BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "/v1/embeddings": [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input"),
        ({"input": [[1], []]}, "input[1]"),
        ({"input": ["a", 1]}, "input"),
        ({"input": 5}, "input"),
        ({"input": None}, "input"),
        ({"input": [260]}, "input"),
        ({"input": [[1], [-1]]}, "input[1]"),
        ({"input": "a" * 513}, "input"),
        ({"input": ["a"] * 4097}, "input"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 1.5}, "dimensions"),
        ({"input": "a", "user": 5}, "user"),
        ({"input": "a", "prompt": "b"}, "prompt"),
    ],
    "/encode": [
        ({}, "text"),
        ({"text": "a", "input_ids": [1]}, "text"),
        ({"text": ""}, "text"),
        ({"text": ["a", ""]}, "text[1]"),
        ({"input_ids": [260]}, "input_ids"),
        ({"input_ids": [1, [2]]}, "input_ids"),
        ({"text": "a", "rid": ""}, "rid"),
        ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
        ({"text": "a", "sampling_params": {"temperature": 0}}, "sampling_params"),
        ({"text": "a", "image_data": "x.png"}, "image_data"),
        ({"text": "a", "stream": True}, "stream"),
    ],
}


@pytest.mark.parametrize("path", BAD)
async def test_refused_by_name_and_the_engine_is_left_alone(server: Served, path: str) -> None:
    for body, param in BAD[path]:
        response = await server.post(path, body)
        assert response.status_code == 400, (str(body)[:100], response.text)
        error = response.json()["error"]
        assert error["param"] == param and param in error["message"], (str(body)[:100], response.text)
    response = await server.post(path, {"input": "a", "text": "a", "model": "gpt-4"})
    assert response.status_code == 400
    assert server.script.received == []


async def test_a_prompt_may_fill_the_context(server: Served) -> None:
    await server.answer("/v1/embeddings", {"input": "a" * 512})
    assert len(server.script.generates[0].tokens) == 512


async def test_encode(server: Served) -> None:
    one = await server.answer("/encode", {"text": "hi", "rid": "mine", "sampling_params": {}})
    assert one == {
        "embedding": expected("hi").tolist(),
        "meta_info": {
            "id": "mine",
            "prompt_tokens": 2,
            "cached_tokens": 1,
            "finish_reason": {"type": "pooled"},
        },
    }
    response = await server.http.put("/encode", json={"input_ids": [[104, 105], [104, 111]], "rid": "two"})
    assert [answer["embedding"] for answer in response.json()] == [
        expected("hi").tolist(),
        expected("ho").tolist(),
    ]
    assert [answer["meta_info"]["id"] for answer in response.json()] == ["two-0", "two-1"]


async def test_an_aborted_request_has_no_vector() -> None:
    script = Script(per_step=None)
    async with served(script, capacity=EMBEDDINGS) as server:
        asking = asyncio.create_task(server.post("/encode", {"text": ["a", "b"], "rid": "mine"}))
        await settle()
        script.say(Delta(script.generates[0].rid, [], Aborted("the model computed no vector")))
        await settle()
        assert (await server.answer("/abort_request", {"rid": "mine"})) == {"aborted": 1}
        response = await asking
        assert response.status_code == 500
        assert "the model computed no vector" in response.json()["error"]["message"]
        assert script.aborts == [script.generates[1].rid]


async def test_what_a_model_does_not_answer_is_refused_with_what_it_does() -> None:
    chat = {"messages": [{"role": "user", "content": "a"}]}
    generating = {
        "/generate": {"text": "a"},
        "/v1/completions": {"prompt": "a"},
        "/v1/chat/completions": chat,
        "/v1/responses": {"input": "a"},
        "/v1/messages": {**chat, "max_tokens": 5},
        "/v1/score": {"query": "a", "items": "b", "label_token_ids": [1]},
        "/v1/decisions": {"prompt": "a", "choices": ["b", "c"]},
    }
    asked = {"/encode": {"text": "a"}, "/v1/embeddings": {"input": "a"}, "/v1/classify": {"input": "a"}}
    cases = [
        (None, asked, "--is-embedding"),
        (EMBEDDINGS, generating, "/v1/embeddings"),
        (EMBEDDINGS, {"/v1/classify": {"input": "a"}}, "/v1/embeddings"),
        (SCORES, generating, "/v1/classify"),
        (SCORES, {"/v1/embeddings": {"input": "a"}}, "/v1/classify"),
    ]
    for capacity, bodies, remedy in cases:
        script = Script()
        async with served(script, **({} if capacity is None else {"capacity": capacity})) as server:
            for path, body in bodies.items():
                response = await server.post(path, body)
                assert response.status_code == 400, (path, response.text)
                assert remedy in response.json()["error"]["message"]
            assert script.received == []
            info = (await server.http.get("/get_model_info")).json()
            assert info["is_generation"] is (capacity is None)


async def test_a_refusal_leaves_the_connection_open() -> None:
    """Though its body comes later than it is known."""
    async with listening(Script(vector=vector_to), capacity=EMBEDDINGS) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        head = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 13\r\n\r\n"
        for path, status in ((b"/generate", b"400"), (b"/encode", b"200")):
            writer.write(head % path)
            await asyncio.sleep(0.05)
            writer.write(b'{"text": "a"}')
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 " + status)
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            await reader.readexactly(int(length[1]))
        writer.close()


async def test_health_and_figures_of_a_model_that_pools(server: Served) -> None:
    assert (await server.http.get("/health_generate")).status_code == 200
    await server.answer("/v1/embeddings", {"input": TEXTS})
    metrics = (await server.http.get("/metrics")).text
    assert 'sgl_requests_total{finish_reason="pooled"} 3.0' in metrics
    assert "sgl_e2e_request_latency_seconds_count 3.0" in metrics


async def test_a_busy_replica_that_pools_is_healthy() -> None:
    script = Script(replicas=1, per_step=None)
    async with served(script, capacity=EMBEDDINGS) as server:
        asking = asyncio.create_task(server.post("/encode", {"text": "a"}))
        await settle()
        probing = asyncio.create_task(server.http.get("/health_generate"))
        await settle()
        script.vector = vector_to
        script.say(*script.deltas(script.generates[0], 1))
        assert (await probing).status_code == 200
        assert (await asking).status_code == 200


@pytest.mark.parametrize(
    ("raw", "scores", "label", "probabilities"),
    [
        ({"id2label": {"0": "no", "1": "yes"}}, [0.0, np.log(3)], "yes", [0.25, 0.75]),
        ({}, [np.log(3), 0.0], "0", [0.75, 0.25]),
        ({}, [np.log(3)], "0", [0.75]),
        ({"problem_type": "multi_label_classification"}, [0.0, np.log(4)], "1", [0.5, 0.8]),
        ({"problem_type": "regression"}, [7.5], "0", [7.5]),
    ],
)
async def test_classes(raw: Any, scores: list[float], label: str, probabilities: list[float]) -> None:
    async with served(Script(vector=lambda _: scores), capacity=SCORES, raw=raw) as server:
        answer = await server.answer("/v1/classify", {"input": ["a", "bc"]})
        assert [entry["index"] for entry in answer["data"]] == [0, 1]
        for entry in answer["data"]:
            assert (entry["label"], entry["num_classes"]) == (label, len(scores))
            np.testing.assert_allclose(entry["probs"], probabilities, rtol=1e-6)
        assert answer["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        encoded = await server.answer("/encode", {"text": "a"})
        np.testing.assert_allclose(encoded["embedding"], scores, rtol=1e-6)
