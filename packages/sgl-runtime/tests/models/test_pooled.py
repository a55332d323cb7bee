# SPDX-License-Identifier: Apache-2.0
"""Models that answer with vectors: embeddings and scores of classes, against transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from driver import Driver, make_runner
from pair import Pair, TwoRanks
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from sgl_runtime.cache.prefix import NoCache, PrefixCache
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Generate, Pooled, Sampling
from sgl_runtime.models import llama, mistral, qwen3
from sgl_runtime.scheduler.scheduler import Scheduler

PROMPTS = [
    torch.randint(3, 264, (length,), generator=torch.Generator().manual_seed(length))
    for length in (1, 40, 71)
]


def write(folder: Path, kind: Any, config: dict[str, Any], architecture: str) -> Any:
    """A random model of transformers, saved as it is published; returns it."""
    model = kind.from_config(AutoConfig.for_model(**config), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": [architecture]}))
    return model


def pooled(runner: Any) -> torch.Tensor:
    """[prompts, size]: the first in chunks, behind a prefix, all of them in one pass at the end."""
    driver = Driver(runner)
    driver.step({2: PROMPTS[2][:30].tolist()}, sampled=[])
    result = driver.step({0: PROMPTS[0].tolist(), 1: PROMPTS[1].tolist(), 2: PROMPTS[2][30:].tolist()})
    assert result.pooled is not None
    return torch.from_numpy(result.pooled)


@pytest.mark.parametrize(
    ("tiny", "architecture"), [(llama.TINY, "LlamaModel"), (mistral.TINY, "MistralModel")]
)
def test_an_embedding_is_the_last_hidden_state_of_length_one(
    tiny: dict[str, Any], architecture: str, tmp_path: Path, pair: Pair
) -> None:
    model = write(tmp_path, AutoModel, tiny, architecture)
    with torch.no_grad():
        last = torch.stack([model(prompt[None]).last_hidden_state[0, -1] for prompt in PROMPTS])
    expected = last / last.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(pooled(make_runner(tmp_path)), expected, atol=1e-5, rtol=0)
    pair.tell("make", tmp_path, {})
    torch.testing.assert_close(
        pooled(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp))), expected, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_scores_of_classes(classes: int, tmp_path: Path, pair: Pair) -> None:
    config = llama.TINY | {"num_labels": classes, "pad_token_id": 0}
    model = write(tmp_path, AutoModelForSequenceClassification, config, "LlamaForSequenceClassification")
    with torch.no_grad():
        expected = torch.cat([model(prompt[None]).logits for prompt in PROMPTS])
    torch.testing.assert_close(pooled(make_runner(tmp_path)), expected, atol=1e-4, rtol=0)
    pair.tell("make", tmp_path, {})
    torch.testing.assert_close(
        pooled(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp))), expected, atol=1e-4, rtol=0
    )


def test_a_head_of_another_size_is_refused(tmp_path: Path) -> None:
    config = llama.TINY | {"num_labels": 5, "pad_token_id": 0}
    write(tmp_path, AutoModelForSequenceClassification, config, "LlamaForSequenceClassification")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"id2label": {"0": "yes", "1": "no"}}))
    with pytest.raises(ConfigError, match=r"score\.weight \(stored as \[5, 48\], expected \[2, 48\]\)"):
        make_runner(tmp_path)


@pytest.mark.parametrize("tiny", [llama.TINY, qwen3.TINY, mistral.TINY | {"tie_word_embeddings": False}])
@pytest.mark.parametrize("alone", [False, True])
def test_a_model_of_text_as_an_embedding_model(
    tiny: dict[str, Any], alone: bool, tmp_path: Path, pair: Pair
) -> None:
    """Published with its head, or, as embedding models are, as the decoder alone under the whole's name."""
    architecture = tiny["architectures"][0]
    model = write(tmp_path, AutoModel if alone else AutoModelForCausalLM, tiny, architecture)
    decoder = model if alone else model.model
    with torch.no_grad():
        last = torch.stack([decoder(prompt[None]).last_hidden_state[0, -1] for prompt in PROMPTS])
    expected = last / last.norm(dim=-1, keepdim=True)
    runner = make_runner(tmp_path, is_embedding=True)
    assert runner.capacity.answers == "embeddings"
    torch.testing.assert_close(pooled(runner), expected, atol=1e-5, rtol=0)
    pair.tell("make", tmp_path, {"is_embedding": True})
    torch.testing.assert_close(
        pooled(TwoRanks(pair, make_runner(tmp_path, tp=pair.tp, is_embedding=True))),
        expected,
        atol=1e-5,
        rtol=0,
    )


def test_scores_of_classes_are_no_embedding(tmp_path: Path) -> None:
    config = llama.TINY | {"num_labels": 2, "pad_token_id": 0}
    write(tmp_path, AutoModelForSequenceClassification, config, "LlamaForSequenceClassification")
    with pytest.raises(
        ConfigError, match="--is-embedding: LlamaForSequenceClassification answers with scores"
    ):
        make_runner(tmp_path, is_embedding=True)


@pytest.mark.parametrize(("mode", "served"), [("lasttoken", True), ("mean_tokens", False)])
def test_a_model_whose_vectors_are_pooled_otherwise_is_refused(
    mode: str, served: bool, tmp_path: Path
) -> None:
    write(tmp_path, AutoModel, llama.TINY, "LlamaModel")
    (tmp_path / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "lasttoken")}
    (tmp_path / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 48, "include_prompt": True, **modes})
    )
    if served:
        assert make_runner(tmp_path).capacity.answers == "embeddings"
    else:
        with pytest.raises(ConfigError, match="pooled by mean_tokens"):
            make_runner(tmp_path)


@pytest.mark.parametrize("cache", [NoCache(), RadixCache()], ids=["no cache", "radix"])
def test_vectors_of_a_replica_that_cuts_and_shares_prompts(cache: PrefixCache, tmp_path: Path) -> None:
    model = write(tmp_path, AutoModel, llama.TINY, "LlamaModel")
    runner = make_runner(tmp_path)
    scheduler = Scheduler(runner.capacity, cache, chunked_prefill_size=16, max_prefill_tokens=40)
    prompts = [*PROMPTS, PROMPTS[2], torch.cat([PROMPTS[2][:50], PROMPTS[1]]), PROMPTS[2][:50]]
    for index, prompt in enumerate(prompts):
        scheduler.add(Generate(str(index), prompt.tolist(), Sampling(max_new_tokens=0)))
    vectors: dict[str, Any] = {}
    cached = 0
    while (batch := scheduler.plan()) is not None:
        for delta in scheduler.commit(runner.forward(batch).result()):
            assert isinstance(delta.finish, Pooled)
            vectors[delta.rid] = torch.from_numpy(delta.finish.vector)
            cached += delta.cached
    assert (cached > 50) == cache.remembers
    for index, prompt in enumerate(prompts):
        with torch.no_grad():
            last = model(prompt[None]).last_hidden_state[0, -1]
        torch.testing.assert_close(vectors[str(index)], last / last.norm(), atol=1e-5, rtol=0)
