# SPDX-License-Identifier: Apache-2.0
"""Data sets and workloads: the same for a seed, of the sizes they promise, arriving as they should."""

from __future__ import annotations

import json
import random
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sgl_runtime.bench.datasets import MAKERS, read_sharegpt, sharegpt
from sgl_runtime.bench.options import ServingOptions
from sgl_runtime.bench.requests import Request, Vocabulary, arriving
from sgl_runtime.bench.workloads import WORKLOADS, workload
from sgl_runtime.errors import ConfigError
from sgl_runtime.text.tokenizer import Tokenizer, load_tokenizer

WORDS = Vocabulary(128_256)


def made(name: str, *, seed: int = 0, **options: Any) -> list[list[Request]]:
    rng = random.Random(seed)
    return [list(talk) for talk in MAKERS[name](rng, WORDS, ServingOptions(**options))]


def flat(talks: list[list[Request]]) -> list[tuple[tuple[int | str, ...], int]]:
    return [(tuple(request.prompt), request.output_len) for talk in talks for request in talk]


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_decides_everything(name: str) -> None:
    sizes = {"num_prompts": 20, "prefix_len": 30, "random_input_len": 40}
    assert flat(made(name, **sizes)) == flat(made(name, **sizes))
    assert flat(made(name, **sizes)) != flat(made(name, seed=1, **sizes))
    assert len(flat(made(name, **sizes))) == 20


def test_random_lengths_lie_between_a_share_and_the_whole() -> None:
    talks = made("random", num_prompts=300, random_input_len=40, random_output_len=10, random_range_ratio=0.5)
    inputs = {len(request.prompt) for talk in talks for request in talk}
    outputs = {request.output_len for talk in talks for request in talk}
    assert (min(inputs), max(inputs)) == (20, 40) and (min(outputs), max(outputs)) == (5, 10)


def test_chat_lengths_are_skewed() -> None:
    requests = [request for talk in made("chat", num_prompts=2000) for request in talk]
    inputs = [len(request.prompt) for request in requests]
    outputs = [request.output_len for request in requests]
    assert 95 < statistics.median(inputs) < 125 < statistics.fmean(inputs) and max(inputs) <= 2048
    assert 135 < statistics.median(outputs) < 165 < statistics.fmean(outputs) and max(outputs) <= 1024


def test_prefixes_are_shared_equally_and_ends_are_not() -> None:
    talks = made("shared-prefix", num_prompts=12, num_prefixes=3, prefix_len=50, unique_len=7)
    prompts = [list(request.prompt) for talk in talks for request in talk]
    heads = [tuple(prompt[:50]) for prompt in prompts]
    assert sorted(heads.count(head) for head in set(heads)) == [4, 4, 4]
    assert len({tuple(prompt[50:]) for prompt in prompts}) == 12 and {len(prompt) for prompt in prompts} == {
        57
    }


def test_every_turn_continues_the_one_before_it() -> None:
    talks = made("multi-turn", num_prompts=8, turns=3, random_input_len=20, turn_len=5)
    assert [len(talk) for talk in talks] == [3, 3, 2]
    for talk in talks:
        for before, after in pairwise(talk):
            assert list(after.prompt)[:-5] == list(before.prompt)
    assert [len(request.prompt) for request in talks[0]] == [20, 25, 30]


@pytest.mark.parametrize("size", [40, 260, 5000, 49152, 128_256])
def test_random_ids_are_of_the_vocabulary(size: int) -> None:
    ids = Vocabulary(size).ids(random.Random(0), 2000)
    assert min(ids) > 0 and max(ids) < size


def test_arrivals_are_a_poisson_process() -> None:
    rng = random.Random(3)
    load = arriving("x", ([Request([1], 1)] for _ in range(4000)), rng, 50.0, stream=True)
    gaps = [after - before for before, after in pairwise(load.arrivals)]
    assert load.arrivals[0] == 0.0 and min(gaps) > 0
    # Of an exponential distribution, mean and standard deviation are 1 / rate.
    assert statistics.fmean(gaps) == pytest.approx(1 / 50, rel=0.06)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.06)
    assert set(arriving("x", [[Request([1], 1)]] * 3, rng, float("inf"), stream=True).arrivals) == {0.0}


@pytest.mark.parametrize(
    ("name", "requests", "tokens_in", "tokens_out", "wave", "stream"),
    [
        ("latency", 6, 6 * 128, 6 * 256, 1, True),
        ("batch32", 96, 96 * 256, 96 * 32, 32, False),
        ("prefix", 1024, 1024 * 2112, 1024 * 64, None, False),
        ("multiturn", 384, 64 * 6 * (512 + 560), 384 * 64, None, False),
        ("long", 12, 12 * 16384, 12 * 128, None, True),
        ("structured", 256, 256 * 64, 256 * 192, None, False),
    ],
)
def test_fixed_workloads(
    name: str, requests: int, tokens_in: int, tokens_out: int, wave: int | None, stream: bool
) -> None:
    load = workload(name, 7, WORDS)
    sent = [request for talk in load.conversations for request in talk]
    assert (load.size, load.wave, load.stream) == (requests, wave, stream)
    assert sum(len(request.prompt) for request in sent) == tokens_in
    assert sum(request.output_len for request in sent) == tokens_out
    assert all((request.schema is not None) == (name == "structured") for request in sent)


def test_the_chat_like_workloads_are_the_same_for_a_seed() -> None:
    for name, requests in (("offline", 1000), ("online", 400)):
        load = workload(name, 7, WORDS)
        assert load.size == requests and load.conversations == workload(name, 7, WORDS).conversations
    assert workload("online", 7, WORDS).arrivals[-1] == pytest.approx(400 / 20, rel=0.2)
    assert set(WORKLOADS) == {
        "offline",
        "online",
        "latency",
        "batch32",
        "prefix",
        "multiturn",
        "long",
        "structured",
    }


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return load_tokenizer(tiny)


def test_a_file_of_conversations(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "sharegpt.json"
    talk = [{"from": "human", "value": "How are you today?"}, {"from": "gpt", "value": "Very well indeed."}]
    records = [
        {"id": 1, "conversations": talk},
        {"id": 2, "messages": [{"role": "user", "content": "Tell me more"}, {"content": "No, thanks"}]},
        {"id": 3, "conversations": talk[:1]},  # no answer
        {"id": 4, "conversations": [{"value": "Hm"}, {"value": "Too short a question"}]},
        {"id": 5, "conversations": [{"value": "x" * 3000}, {"value": "Too long a question"}]},
        {"id": 6, "conversations": [{"value": "An answer that"}, {"value": "y" * 5000}]},
        "nothing",
        {"conversations": [None, 3]},
    ]
    file.write_text(json.dumps(records))

    def requests(**options: Any) -> list[Request]:
        settings = ServingOptions(dataset_path=str(file), **options)
        found = sharegpt(random.Random(0), tokenizer, settings, read_sharegpt(str(file)))
        return [request for talk in found for request in talk]

    both = {request.prompt: request for request in requests(num_prompts=2)}
    assert set(both) == {"How are you today?", "Tell me more"}
    asked = both["How are you today?"]
    assert asked.output_len == len(tokenizer.encode("Very well indeed.", add_special=False))
    assert asked.input_len == len(tokenizer.encode("How are you today?"))
    assert {request.output_len for request in requests(num_prompts=2, sharegpt_output_len=9)} == {9}
    with pytest.raises(ConfigError, match="has 2 conversations"):
        requests(num_prompts=3)


@pytest.mark.parametrize("content", ["{}", "[", "\xff"])
def test_a_file_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "file.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match="--dataset-path"):
        read_sharegpt(str(file))
