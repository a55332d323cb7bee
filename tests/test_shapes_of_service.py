# SPDX-License-Identifier: Apache-2.0
"""The same tiny model in every arrangement of processes and sources: replicas, ranks, dummy weights, no
tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import node
import openai
import pytest
import torch
from live import Server, running
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def twins(tiny: Path) -> Iterator[Server]:
    """Two replicas."""
    with running("--model-path", str(tiny), "--dp", "2", "--dtype", "float32") as server:
        yield server


def test_two_replicas_share_the_work_and_say_the_same(twins: Server) -> None:
    texts = {twins.generate(text="The same", sampling_params=GREEDY)["text"] for _ in range(4)}
    replicas = twins.http.get("/server_info").json()["replicas"]
    assert len(texts) == 1
    assert [replica["load"]["generated_tokens"] for replica in replicas] == [24, 24]


def test_scores_and_decisions_are_those_of_transformers(twins: Server, tiny: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)

    def logprobs(text: str) -> Any:
        """[tokens, vocabulary], of the token behind each."""
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1)

    query, items, labels = "Is it in the list? ", ["the first one", "another"], [70, 71, 99]
    body = {"query": query, "items": items, "label_token_ids": labels}
    answer = twins.http.post("/v1/score", json=body).json()
    shares = twins.http.post("/v1/score", json={**body, "apply_softmax": True}).json()
    for item, row, share in zip(items, answer["scores"], shares["scores"], strict=True):
        expected = logprobs(query + item)[-1, labels]
        assert row == pytest.approx(expected.exp().tolist(), rel=1e-3)
        assert share == pytest.approx(expected.softmax(-1).tolist(), rel=1e-3)

    prompt, choices = "Choose one of", [" the", " them all", " in"]  # of some the blank is part of a token
    decision = twins.http.post("/v1/decisions", json={"prompt": prompt, "choices": choices}).json()
    means = []
    for choice, told in zip(choices, decision["choices"], strict=True):
        ids = tokenizer(prompt + choice)["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        expected = logprobs(prompt + choice)[range(start - 1, len(ids) - 1), ids[start:]]
        assert told["tokens"] == ids[start:]
        assert told["token_logprobs"] == pytest.approx(expected.tolist(), abs=1e-3)
        assert told["score"] == pytest.approx(expected.mean().item(), abs=1e-3)
        means.append(expected.mean().item())
    assert decision["index"] == means.index(max(means))


def test_ranks_with_uneven_shares_say_what_one_rank_says(twins: Server, tiny: Path) -> None:
    with running("--model-path", str(tiny), "--dtype", "float32", "--tp", "2") as server:
        answer = server.generate(text="Some prompt", sampling_params=GREEDY)["text"]
    assert answer == twins.generate(text="Some prompt", sampling_params=GREEDY)["text"]


def test_ids_go_in_and_come_out_where_there_is_nothing_but_a_config(tiny: Path, tmp_path: Path) -> None:
    """Dummy weights need no other file, and a server without a tokenizer none of its."""
    shutil.copy(tiny / "config.json", tmp_path)
    flags = ("--load-format", "dummy", "--skip-tokenizer-init")
    with running("--model-path", str(tmp_path), *flags) as server:
        answer = server.generate(input_ids=[5, 6, 7], sampling_params=GREEDY)
        refused = server.http.post("/generate", json={"text": "x"})
    assert len(answer["token_ids"]) == 12
    assert refused.status_code == 400 and "token ids" in refused.text


def test_another_policy_and_mixed_batches_answer_everything(tiny: Path) -> None:
    """That every policy does, the scheduler's own tests show."""
    flags = ("--schedule-policy", "dfs-weight", "--enable-mixed-chunk", "--chunked-prefill-size", "16")
    with running("--model-path", str(tiny), *flags, "--max-total-tokens", "900") as server:
        prompts = [f"{'shared prefix ' * (n % 3)}number {n}" for n in range(24)]
        answers = server.generate(text=prompts, sampling_params=GREEDY)
        alone = [server.generate(text=prompt, sampling_params=GREEDY)["text"] for prompt in prompts[:2]]
        assert server.load()["slots_used"] == 0
    assert [answer["meta_info"]["completion_tokens"] for answer in answers] == [12] * 24
    assert [answer["text"] for answer in answers[:2]] == alone


@pytest.fixture(scope="module")
def embedding(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two replicas that answer with vectors."""
    flags = ("--is-embedding", "--dtype", "float32", "--chunked-prefill-size", "16", "--dp", "2")
    files = tmp_path_factory.mktemp("files")
    with running("--model-path", str(tiny), *flags, "--file-storage-path", str(files)) as server:
        yield server


def test_embeddings_are_those_of_transformers(embedding: Server, tiny: Path) -> None:
    texts = [f"query: {'shared prefix ' * 4}number {n}" for n in range(8)]
    server = embedding
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    for _ in range(2):  # the second time from the prefix cache
        answer = client.embeddings.create(model="default", input=texts)
    encoded = server.http.post("/encode", json={"text": texts[0]}).json()
    info = server.http.get("/get_model_info").json()
    refused = server.http.post("/generate", json={"text": "x"})
    assert server.http.get("/health_generate").status_code == 200
    assert f"curl {server.url}/encode" in server.log
    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModel.from_pretrained(tiny)
    for text, entry in zip(texts, answer.data, strict=True):
        with torch.no_grad():
            last = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, -1]
        torch.testing.assert_close(torch.tensor(entry.embedding), last / last.norm(), atol=1e-5, rtol=0)
    assert encoded["embedding"] == pytest.approx(answer.data[0].embedding, abs=1e-5)
    assert encoded["meta_info"]["cached_tokens"] == encoded["meta_info"]["prompt_tokens"] - 1
    assert info["is_generation"] is False
    assert refused.status_code == 400 and "/v1/embeddings" in refused.text


def test_the_client_for_node_gets_vectors(embedding: Server) -> None:
    node.conforms(embedding.url)
