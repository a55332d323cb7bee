# SPDX-License-Identifier: Apache-2.0
"""The same tiny model in every arrangement of processes and sources: replicas, ranks, dummy weights, no
tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live import running

GREEDY: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12, "ignore_eos": True}


def test_two_replicas_share_the_work_and_say_the_same(tiny: Path) -> None:
    with running("--model-path", str(tiny), "--dp", "2", "--dtype", "float32") as server:
        texts = {server.generate(text="The same", sampling_params=GREEDY)["text"] for _ in range(4)}
        replicas = server.http.get("/server_info").json()["replicas"]
    assert len(texts) == 1
    assert [replica["load"]["generated_tokens"] for replica in replicas] == [24, 24]


def test_ranks_with_uneven_shares_say_what_one_rank_says(tiny: Path) -> None:
    answers = []
    for flags in ((), ("--tp", "2")):
        with running("--model-path", str(tiny), "--dtype", "float32", *flags) as server:
            answers.append(server.generate(text="Some prompt", sampling_params=GREEDY)["text"])
    assert answers[0] == answers[1]


def test_dummy_weights_need_the_config_alone(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny / name, tmp_path)
    with running("--model-path", str(tmp_path), "--load-format", "dummy") as server:
        assert server.generate(text="x", sampling_params=GREEDY)["meta_info"]["completion_tokens"] == 12


def test_without_a_tokenizer_ids_go_in_and_come_out(tiny: Path, tmp_path: Path) -> None:
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(tiny / name, tmp_path)
    with running("--model-path", str(tmp_path), "--skip-tokenizer-init") as server:
        answer = server.generate(input_ids=[5, 6, 7], sampling_params=GREEDY)
        refused = server.http.post("/generate", json={"text": "x"})
    assert len(answer["token_ids"]) == 12
    assert refused.status_code == 400 and "token ids" in refused.text


@pytest.mark.parametrize("policy", ["lpm", "random", "fcfs", "dfs-weight", "lof"])
def test_every_policy_and_mixed_batches_answer_everything(tiny: Path, policy: str) -> None:
    flags = ("--schedule-policy", policy, "--enable-mixed-chunk", "--chunked-prefill-size", "16")
    with running("--model-path", str(tiny), *flags, "--max-total-tokens", "900") as server:
        prompts = [f"{'shared prefix ' * (n % 3)}number {n}" for n in range(24)]
        answers = server.generate(text=prompts, sampling_params=GREEDY)
        alone = [server.generate(text=prompt, sampling_params=GREEDY)["text"] for prompt in prompts[:2]]
        assert server.load()["slots_used"] == 0
    assert [answer["meta_info"]["completion_tokens"] for answer in answers] == [12] * 24
    assert [answer["text"] for answer in answers[:2]] == alone


def test_a_model_without_text_is_refused(tiny: Path, tmp_path: Path, refusal: Callable[..., str]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_text((tiny / name).read_text().replace("LlamaForCausalLM", "LlamaModel"))
    message = refusal("--model-path", str(tmp_path), "--load-format", "dummy", "--device", "cpu")
    assert "LlamaModel answers with vectors" in message and "serve a model that generates text" in message
