# SPDX-License-Identifier: Apache-2.0
"""What every model must be: a file that exports `TINY` is found and tested here without being named.

In float32 and against the same architecture in transformers, or where that has none in `plain.py`, with the
same random weights: in one pass, in chunks, behind a cached prefix, beside other requests, token by token,
and divided over two ranks.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driver import Driver, make_runner, sampling
from pair import Pair, TwoRanks
from plain import PLAIN, Reference
from safetensors.torch import load_file, save_file
from tiny_checkpoint import write_checkpoint
from transformers import AutoModelForCausalLM

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import KVPool
from sgl_runtime.messages import LogprobArrays
from sgl_runtime.models import supported

_MODULES = {
    name: importlib.import_module(where) for name, where in supported().items() if isinstance(where, str)
}
_TINY = {name: module.TINY for name, module in _MODULES.items() if hasattr(module, "TINY")}
_STEPS = 16


@dataclass
class Case:
    folder: Path
    vocabulary: int
    reference: Callable[[torch.Tensor], torch.Tensor]  # tokens [T] -> logits [T, vocabulary]
    prompt: list[int]
    expected: torch.Tensor  # [prompt, vocabulary] log-probabilities
    continuation: list[int]  # greedy


@pytest.fixture(scope="module", params=sorted(_TINY))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    config = _TINY[request.param]
    folder, reference = _write(tmp_path_factory.mktemp(request.param), config)
    vocabulary = read_config(folder).vocab_size
    prompt = torch.randint(3, vocabulary, (90,), generator=torch.Generator().manual_seed(7))
    expected = reference(prompt)
    tokens, logits = prompt, expected
    for _ in range(_STEPS):
        tokens = torch.cat([tokens, logits[-1:].argmax(-1)])
        logits = reference(tokens)
    return Case(
        folder, vocabulary, reference, prompt.tolist(), expected.log_softmax(-1), tokens[90:].tolist()
    )


def _write(folder: Path, config: dict[str, Any]) -> tuple[Path, Callable[[torch.Tensor], torch.Tensor]]:
    """A random checkpoint, and the model that it is by somebody else's account."""
    if config["model_type"] in PLAIN:
        return folder, Reference(folder, config).logits
    model = AutoModelForCausalLM.from_pretrained(
        write_checkpoint(folder, config),
        dtype=torch.float32,
        experts_implementation="eager",  # another wants widths that are multiples of four
    )

    def logits(tokens: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            values: torch.Tensor = model(tokens[None], use_cache=False).logits[0]
        return values

    return folder, logits


@pytest.fixture
def driver(case: Case) -> Iterator[Driver]:
    yield Driver(make_runner(case.folder))


def test_one_pass(case: Case, driver: Driver) -> None:
    token, logprobs = driver.distribution(0, case.prompt)
    torch.testing.assert_close(logprobs, case.expected[-1], atol=1e-4, rtol=0)
    assert token == case.continuation[0]


def test_the_reference_is_not_trivial(case: Case) -> None:
    assert len(set(case.continuation)) > _STEPS // 2, "a continuation that repeats itself shows little"


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks(case: Case, driver: Driver, chunk: int) -> None:
    parts = [case.prompt[i : i + chunk] for i in range(0, len(case.prompt), chunk)]
    for part in parts[:-1]:
        assert driver.step({0: part}, sampled=[]).tokens.size == 0
    _, logprobs = driver.distribution(0, parts[-1])
    torch.testing.assert_close(logprobs, case.expected[-1], atol=1e-4, rtol=0)


def test_a_cached_prefix(case: Case, driver: Driver) -> None:
    driver.step({0: case.prompt[:60]}, sampled=[])
    driver.begin(3, shared=driver.slots[0][:50])
    driver.begin(4, shared=driver.slots[0][:59])
    _, logprobs = driver.distribution(3, case.prompt[50:])
    torch.testing.assert_close(logprobs, case.expected[-1], atol=1e-4, rtol=0)
    assert driver.generate(4, case.prompt[59:], _STEPS) == case.continuation


def test_greedy_continuation_token_by_token(case: Case, driver: Driver) -> None:
    assert driver.generate(5, case.prompt, _STEPS, chunk=40) == case.continuation


def test_a_mixed_batch_beside_strangers(case: Case, driver: Driver) -> None:
    """Two decoding requests, a chunk and a whole prompt in one pass; nobody sees anybody else."""
    driver.step({0: case.prompt[:-1], 1: case.prompt[:20], 2: [5, 6, 7]}, sampled=[2])
    everything = np.full(3, case.vocabulary, np.int32)
    none = np.empty(0, np.int32)
    result = driver.step(
        {2: [9], 0: case.prompt[-1:], 1: case.prompt[20:50], 3: case.prompt},
        sampled=[2, 0, 3],
        sampling_arrays=sampling(3),
        logprobs=LogprobArrays(everything, none, none, none),
    )
    stranger = case.reference(torch.tensor([5, 6, 7, 9]))[-1].log_softmax(-1)
    assert result.output_logprobs is not None
    for entry, expected in zip(
        result.output_logprobs, (stranger, case.expected[-1], case.expected[-1]), strict=True
    ):
        assert entry is not None
        tokens, values = zip(*entry[1], strict=True)
        torch.testing.assert_close(torch.tensor(values), expected[list(tokens)], atol=1e-4, rtol=0)


def test_what_lies_in_other_slots_does_not_matter(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool full of NaN: a request must not even multiply by zero what is not its own."""
    make = KVPool.__init__

    def poisoned(self: KVPool, *arguments: Any) -> None:
        make(self, *arguments)
        for layer in range(len(self._layers)):
            for cache in self[layer]:
                cache.fill_(float("nan"))

    monkeypatch.setattr(KVPool, "__init__", poisoned)
    driver = Driver(make_runner(case.folder))
    driver.step({1: case.prompt[:33], 0: case.prompt[:40]}, sampled=[])
    driver.step({2: [3, 4, 5], 0: case.prompt[40:-1]}, sampled=[])
    result = driver.step({1: case.prompt[33:34], 2: [6], 0: case.prompt[-1:]})
    assert (result.tokens >= 0).all()
    assert int(result.tokens[2]) == case.continuation[0]


def test_two_ranks_are_one_model(case: Case, pair: Pair) -> None:
    pair.tell("make", case.folder, {})
    driver = Driver(TwoRanks(pair, make_runner(case.folder, tp=pair.tp)))  # type: ignore[arg-type]
    _, logprobs = driver.distribution(0, case.prompt)
    torch.testing.assert_close(logprobs, case.expected[-1], atol=1e-4, rtol=0)
    assert driver.generate(1, case.prompt, _STEPS, chunk=64) == case.continuation
    # The rank that does not sample knows what was sampled.
    driver.step({2: case.prompt})
    assert [int(driver.step({2: [-1]}).tokens[0]) for _ in range(5)] == case.continuation[1:6]


def test_two_ranks_score_a_prompt(case: Case, pair: Pair) -> None:
    pair.tell("make", case.folder, {})
    driver = Driver(TwoRanks(pair, make_runner(case.folder, tp=pair.tp)))  # type: ignore[arg-type]
    index = np.arange(len(case.prompt) - 1, dtype=np.int32)
    targets = np.array(case.prompt[1:], np.int32)
    wanted = LogprobArrays(np.array([-1], np.int32), index, targets, np.zeros_like(index))
    result = driver.step({0: case.prompt}, logprobs=wanted)
    assert result.input_logprobs is not None
    values = torch.tensor([value for value, _ in result.input_logprobs])
    torch.testing.assert_close(values, case.expected[index, targets], atol=1e-4, rtol=0)
    assert result.tokens.tolist() == case.continuation[:1]


def test_every_tensor_is_placed_once(case: Case, tmp_path: Path) -> None:
    for file in case.folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    names = sorted(tensors)
    missing, resized = names[len(names) // 2], names[-1]
    del tensors[missing]
    tensors[resized] = tensors[resized][:-1].clone()
    tensors["model.layers.77.mlp.down_proj.weight"] = torch.zeros(2, 2)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError) as refused:
        make_runner(tmp_path)
    assert f"1 missing: {missing};" in refused.value.message
    assert "1 without a place: model.layers.77.mlp.down_proj.weight;" in refused.value.message
    assert f"1 misfitting: {resized} (stored as" in refused.value.message
