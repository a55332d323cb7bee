# SPDX-License-Identifier: Apache-2.0
"""A pass computed in parts is the pass; where even parts do not fit, the requests in them fail alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from driver import Driver, make_runner
from torch import Tensor

from sgl_runtime.messages import Batch, LogprobArrays
from sgl_runtime.models.llama import LlamaForCausalLM
from sgl_runtime.runner import parts
from sgl_runtime.runner.assemble import SLOT, Pass, describe
from sgl_runtime.runner.passes import Passes

PROMPT, OTHER = list(range(5, 45)), list(range(90, 57, -1))


def scarce(monkeypatch: pytest.MonkeyPatch, *, most: int, never: set[int] = frozenset()) -> None:  # type: ignore[assignment]
    """No pass of more than `most` tokens finds memory, and none that writes one of the slots `never`."""
    run = Passes.run

    def failing(self: Passes, step: Pass) -> tuple[Tensor, Tensor]:
        if step.tokens > most or never & set(step.ids[SLOT].tolist()):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(self, step)

    monkeypatch.setattr(Passes, "run", failing)
    monkeypatch.setattr(parts, "_LEAST", 4)


def begun(tiny: Path) -> Driver:
    """Row 2 decodes, row 3 has a part of its prompt."""
    driver = Driver(make_runner(tiny))
    driver.step({2: OTHER[:20]})
    driver.step({3: PROMPT[:11]}, sampled=[])
    return driver


def mixed(driver: Driver) -> Batch:
    logprobs = LogprobArrays(
        np.array([1, 0, 2, -1], np.int32),
        np.array([2, 3, 20, 40], np.int32),
        np.array([7, 8, 9, 10], np.int32),
        np.array([1, 2, 0, 1], np.int32),
    )
    work = {2: [-1], 3: PROMPT[11:], 0: PROMPT, 1: OTHER}
    return driver.batch(work, logprobs=logprobs)


@pytest.mark.parametrize("most", [72, 64, 30, 7, 4])
def test_parts_are_the_whole(tiny: Path, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    plain, short = begun(tiny), begun(tiny)
    expected = plain.runner.forward(mixed(plain)).result()
    with monkeypatch.context() as patch:
        scarce(patch, most=most)
        pending = short.runner.forward(mixed(short))
    assert not pending.failed
    result = pending.result()
    assert result.tokens.tolist() == expected.tokens.tolist()
    for ours, theirs in (
        (result.input_logprobs, expected.input_logprobs),
        (result.output_logprobs, expected.output_logprobs),
    ):
        assert ours is not None and theirs is not None
        for mine, one in zip(ours, theirs, strict=True):
            assert (mine is None) == (one is None)
            if mine is None or one is None:
                continue
            assert mine[0] == pytest.approx(one[0], abs=1e-5)
            assert [token for token, _ in mine[1]] == [token for token, _ in one[1]]
    work = {0: [-1], 2: [-1], 1: [-1], 3: [-1]}
    assert short.step(work).tokens.tolist() == plain.step(work).tokens.tolist()


def test_what_does_not_fit_fails_and_the_rest_is_computed(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, short = begun(tiny), begun(tiny)
    expected = plain.runner.forward(mixed(plain)).result()
    batch = mixed(short)
    with monkeypatch.context() as patch:
        scarce(patch, most=30, never={int(batch.slots[1 + 29 + 5])})  # the sixth token of row 0
        pending = short.runner.forward(batch)
    assert list(pending.failed) == [2]
    computed = [0, 1, 3]
    assert pending.result().tokens[computed].tolist() == expected.tokens[computed].tolist()


def test_if_nothing_is_told_everybody_has_failed(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = begun(tiny)

    def logits(self: LlamaForCausalLM, hidden: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(LlamaForCausalLM, "logits", logits)
        pending = driver.runner.forward(mixed(driver))
    assert list(pending.failed) == [0, 1, 2, 3]
    assert pending.result().tokens.tolist() == [-1] * 4
    assert (
        driver.step({4: PROMPT}).tokens.tolist()
        == Driver(make_runner(tiny)).step({4: PROMPT}).tokens.tolist()
    )


def test_part_of_a_pass(tiny: Path) -> None:
    driver = begun(tiny)
    batch = mixed(driver)
    driver.runner._rows.enter(batch.prefixes)
    step = describe(batch, driver.runner._rows)
    assert step.layout.q_lens == (1, 29, 40, 33)
    middle = parts.part(step, 20, 75)
    assert middle.layout.q_lens == (10, 40, 5)
    assert middle.layout.kv_lens == (40, 40, 5)
    assert middle.ids.tolist() == step.ids[:, 20:75].tolist()
    assert parts.part(step, 0, 1).layout.kv_lens == (21,)
    assert parts.part(step, 3, 9).layout.kv_lens == (11 + 8,)
