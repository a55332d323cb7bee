# SPDX-License-Identifier: Apache-2.0
"""What the scheduler may rely on: -1 is the token of the step before, -1 is no token, log-probabilities are
the model's, and capacity is what was asked for. Against transformers where there is a number to compare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from driver import SLOTS, Driver, make_runner, sampling
from tiny_checkpoint import write_checkpoint
from torch import Tensor
from transformers import AutoModelForCausalLM

from sgl_runtime.checkpoint.config import read_config
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import Batch, Capacity, History, LogprobArrays, decoder, encode
from sgl_runtime.models.llama import TINY, LlamaForCausalLM
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner.load import choose_dtype
from sgl_runtime.runner.memory import Memory
from sgl_runtime.runner.runner import Runner

PROMPT = torch.randint(3, TINY["vocab_size"], (1, 40), generator=torch.Generator().manual_seed(11))[
    0
].tolist()
OTHER = torch.randint(3, TINY["vocab_size"], (1, 33), generator=torch.Generator().manual_seed(12))[0].tolist()


@pytest.fixture(scope="module")
def reference(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


@pytest.fixture
def driver(tiny: Path) -> Driver:
    return Driver(make_runner(tiny))


def expected_logprobs(reference: Any, tokens: list[int]) -> Tensor:
    with torch.no_grad():
        return reference(torch.tensor([tokens])).logits[0].log_softmax(-1)


def test_capacity_is_what_was_asked_for(driver: Driver) -> None:
    assert driver.runner.capacity == Capacity(
        slots=SLOTS, rows=8, context_length=TINY["max_position_embeddings"], vocab_size=TINY["vocab_size"]
    )
    assert not driver.runner.asynchronous


def test_minus_one_is_the_token_of_the_step_before(tiny: Path) -> None:
    plain, ahead = Driver(make_runner(tiny)), Driver(make_runner(tiny))
    expected = {0: plain.generate(0, PROMPT, 6), 5: plain.generate(5, OTHER, 6)}
    pending = [ahead.runner.forward(ahead.batch({5: OTHER, 0: PROMPT}))]
    for order in ([0, 5], [5, 0], [0, 5]):
        pending.append(ahead.runner.forward(ahead.batch({row: [-1] for row in order})))
    # One of them rests for a step, and a new request computes beside the other; then both go on.
    pending.append(ahead.runner.forward(ahead.batch({1: OTHER, 0: [-1]}, sampled=[0])))
    pending.append(ahead.runner.forward(ahead.batch({0: [-1], 5: [-1]})))
    results = [each.result().tokens.tolist() for each in pending]
    assert [
        results[0][1],
        results[1][0],
        results[2][1],
        results[3][0],
        results[4][0],
        results[5][0],
    ] == expected[0]
    assert [results[0][0], results[1][1], results[2][0], results[3][1], results[5][1]] == expected[5][:5]


def test_tokens_come_in_the_order_of_the_sampled(driver: Driver) -> None:
    expected = [driver.generate(row, prompt, 2) for row, prompt in ((0, PROMPT), (1, OTHER), (2, PROMPT[:9]))]
    result = driver.step({3: PROMPT, 4: OTHER, 5: PROMPT[:9]}, sampled=[5, 3])
    assert result.tokens.tolist() == [expected[2][0], expected[0][0]]
    result = driver.step({3: [-1], 5: [-1]}, sampled=[5, 3])
    assert result.tokens.tolist() == [expected[2][1], expected[0][1]]


def test_a_batch_may_have_travelled(tiny: Path, driver: Driver) -> None:
    """Followers get arrays that cannot be written."""
    expected = Driver(make_runner(tiny)).generate(0, PROMPT, 3)
    travelled = decoder(Batch).decode(encode(driver.batch({0: PROMPT})))
    assert driver.runner.forward(travelled).result().tokens.tolist() == expected[:1]
    travelled = decoder(Batch).decode(encode(driver.batch({0: [-1]})))
    assert driver.runner.forward(travelled).result().tokens.tolist() == expected[1:2]


def test_logprobs_of_sampled_tokens_are_of_the_raw_logits(driver: Driver, reference: Any) -> None:
    none = np.empty(0, np.int32)
    histories = (History(0, np.array(PROMPT, np.int32), none), History(1, np.array(OTHER, np.int32), none))
    result = driver.step(
        {0: PROMPT, 1: OTHER, 2: PROMPT},
        sampling_arrays=sampling(
            3, temperature=[0.0, 5.0, 0.0], repetition_penalty=[1.9, 1.9, 1.0], histories=histories,
            bias_rows=np.array([2], np.int32), bias_tokens=np.array([9], np.int32),
            bias_values=np.array([1e4], np.float32),
        ),
        logprobs=LogprobArrays(np.array([3, 0, -1], np.int32), none, none, none),
    )  # fmt: skip
    assert result.output_logprobs is not None and result.input_logprobs is None
    assert result.output_logprobs[2] is None and result.tokens[2] == 9
    for row, (tokens, top) in enumerate([(PROMPT, 3), (OTHER, 0)]):
        expected = expected_logprobs(reference, tokens)[-1]
        entry = result.output_logprobs[row]
        assert entry is not None
        assert entry[0] == pytest.approx(float(expected[result.tokens[row]]), abs=1e-4)
        best = expected.topk(top)
        assert [token for token, _ in entry[1]] == best.indices.tolist()
        assert [value for _, value in entry[1]] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_logprobs_of_a_prompt_in_chunks(driver: Driver, reference: Any) -> None:
    """From position 10 of one prompt with 2 alternatives, beside a stranger who wants none, in two passes."""
    expected = expected_logprobs(reference, PROMPT)
    found = []
    for start, stop in ((0, 25), (25, 40)):
        positions = np.arange(max(start, 10), min(stop, 39), dtype=np.int32)
        result = driver.step(
            {1: OTHER[start // 2 : stop // 2], 0: PROMPT[start:stop]},
            sampled=[0] if stop == 40 else [],
            logprobs=LogprobArrays(
                top=np.full(int(stop == 40), -1, np.int32),
                input_index=positions - start + np.int32(stop // 2 - start // 2),
                input_targets=np.array(PROMPT, np.int32)[positions + 1],
                input_top=np.where(positions % 2, 2, 0).astype(np.int32),
            ),
        )
        assert result.input_logprobs is not None
        found += result.input_logprobs
    assert len(found) == 29
    for position, (value, best) in enumerate(found, start=10):
        assert value == pytest.approx(float(expected[position, PROMPT[position + 1]]), abs=1e-4)
        assert [token for token, _ in best] == expected[position].topk(
            2 if position % 2 else 0
        ).indices.tolist()


def test_logprobs_of_several_tokens_behind_one(driver: Driver, reference: Any) -> None:
    """Two behind a prompt and one within it, three behind another; the logits of each exist once."""
    index, targets = (
        np.array([3, 39, 39, 59, 59, 59], np.int32),
        np.array([PROMPT[4], 1, 7, 7, 0, 5], np.int32),
    )
    result = driver.step(
        {0: PROMPT, 1: OTHER},
        sampled=[],
        logprobs=LogprobArrays(np.empty(0, np.int32), index, targets, np.array([1, 0, 2, 0, 0, 0], np.int32)),
    )
    assert result.input_logprobs is not None
    rows = torch.cat([expected_logprobs(reference, PROMPT), expected_logprobs(reference, OTHER)])
    for position, target, (value, best) in zip(index, targets, result.input_logprobs, strict=True):
        assert value == pytest.approx(float(rows[position, target]), abs=1e-4)
        count = 2 if target == 7 and position == 39 else int(position == 3)
        assert [token for token, _ in best] == rows[position].topk(count).indices.tolist()


def test_nan_fails_one_row_and_the_next_step_does_not_trip_over_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [driver.generate(row, prompt, 3) for row, prompt in ((0, PROMPT), (1, OTHER))]
    compute = LlamaForCausalLM.logits

    def broken(self: LlamaForCausalLM, hidden: Tensor) -> Tensor:
        logits = compute(self, hidden)
        logits[0, 5] = float("nan")
        return logits

    one = LogprobArrays(np.zeros(2, np.int32), *(np.empty(0, np.int32) for _ in range(3)))
    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "logits", broken)
        first = driver.runner.forward(driver.batch({2: PROMPT, 3: OTHER}, logprobs=one))
    second = driver.runner.forward(driver.batch({2: [-1], 3: [-1]}))
    result = first.result()
    assert result.tokens.tolist() == [-1, expected[1][0]]
    assert result.output_logprobs is not None
    assert result.output_logprobs[0] is None and result.output_logprobs[1] is not None
    assert second.result().tokens[1] == expected[1][1]


def test_dummy_weights_from_config_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((tiny / "config.json").read_text())
    outputs = [
        Driver(make_runner(tmp_path, load_format="dummy")).distribution(0, PROMPT)[1] for _ in range(2)
    ]
    assert torch.equal(*outputs) and outputs[0].isfinite().all()
    with pytest.raises(ConfigError, match="holds no weights"):
        make_runner(tmp_path)


def test_bfloat16_is_close_to_float32(tiny: Path, reference: Any) -> None:
    _, logprobs = Driver(make_runner(tiny, dtype="auto")).distribution(0, PROMPT)
    difference = (logprobs - expected_logprobs(reference, PROMPT)[-1]).abs()
    assert 1e-4 < float(difference.max()) < 0.5, "computed in bfloat16, and right"


def test_float16_when_asked(tiny: Path, reference: Any) -> None:
    _, logprobs = Driver(make_runner(tiny, dtype="half")).distribution(0, PROMPT)
    difference = (logprobs - expected_logprobs(reference, PROMPT)[-1]).abs()
    assert 1e-5 < float(difference.max()) < 0.1


@pytest.mark.parametrize(
    ("asked", "stored", "device", "expected"),
    [
        ("auto", "bfloat16", "cuda", torch.bfloat16),
        ("auto", "float16", "cuda", torch.float16),
        ("auto", "float32", "cuda", torch.float16),
        ("auto", "float16", "cpu", torch.bfloat16),
        ("auto", "float32", "cpu", torch.bfloat16),
        ("half", "bfloat16", "cpu", torch.float16),
        ("float", "float16", "cpu", torch.float32),
        ("float32", "bfloat16", "cuda", torch.float32),
        ("bfloat16", "float16", "cuda", torch.bfloat16),
    ],
)
def test_dtypes(asked: str, stored: str, device: str, expected: torch.dtype) -> None:
    assert choose_dtype(asked, stored, torch.device(device)) == expected


def test_progress_counts_every_tensor(tiny: Path) -> None:
    seen: list[tuple[int, int]] = []
    config = ServeConfig(device="cpu", max_total_tokens=10)
    Runner(
        config,
        read_config(tiny),
        tiny,
        TensorParallel.alone(),
        lambda done, total: seen.append((done, total)),
    )
    assert seen == [(done, len(seen)) for done in range(1, len(seen) + 1)] and len(seen) == 20


def test_weights_of_another_shape_are_named(tiny: Path) -> None:
    config = msgspec.structs.replace(read_config(tiny), intermediate_size=90)
    with pytest.raises(ConfigError) as refused:
        Runner(ServeConfig(device="cpu"), config, tiny, TensorParallel.alone())
    assert "6 misfitting: " in refused.value.message
    name = "model.layers.0.mlp.down_proj.weight"
    assert f"{name} (stored as [48, 87], expected [48, 90])" in refused.value.message
    assert "missing" not in refused.value.message


def test_weights_stored_twice_are_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model-copy.safetensors").write_bytes(data)
    with pytest.raises(ConfigError, match=r"20 misfitting: \S+ \(stored twice\)"):
        make_runner(tmp_path)


def test_a_model_that_does_not_fit_is_refused_before_it_is_allocated(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sgl_runtime.runner.load.free_memory", lambda device: Memory(100_000, 10**9))
    with pytest.raises(ConfigError, match=r"the weights need .* use --dtype bfloat16"):
        make_runner(tiny)
    with pytest.raises(ConfigError, match=r"the weights need .* use a smaller model"):
        make_runner(tiny, dtype="bfloat16")


def test_an_unknown_attention_backend_is_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"--attention-backend: .*'magic'.*reference"):
        make_runner(tiny, attention_backend="magic")
