# SPDX-License-Identifier: Apache-2.0
"""Masks on the device: whatever is kept there and whatever makes room, each row meets its own mask."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from driver import Driver, make_runner, sampling
from hypothesis import given, settings
from hypothesis import strategies as st
from sgl_constrain import apply_bitmask

from sgl_runtime.messages import I32, History, Masks
from sgl_runtime.models.llama import TINY
from sgl_runtime.parallel.rendezvous import choose_device
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.runner import masks as module
from sgl_runtime.runner.masks import MaskTable
from sgl_runtime.runner.pending import Pending
from sgl_runtime.runner.sampler import Sampler

CPU = torch.device("cpu")
VOCABULARY = 70  # three words, the last one with bits that are no token


def bits(seed: int) -> I32:
    return np.random.default_rng(seed).integers(-(2**31), 2**31, -(-VOCABULARY // 32)).astype(np.int32)


def only(token: int) -> I32:
    mask = np.zeros(-(-VOCABULARY // 32), np.int32)
    mask.view(np.uint32)[token // 32] = 1 << token % 32
    return mask


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.dictionaries(st.integers(0, 6), st.integers(0, 9), min_size=1), min_size=1, max_size=12),
    st.sampled_from([1, 3, 100]),
)
def test_every_row_is_masked_as_numpy_does_it(steps: list[dict[int, int]], capacity: int) -> None:
    """`steps`: for rows of 7, which of ten masks. A table of one mask grows for what a step needs at once."""
    kept = [bits(seed) for seed in range(10)]
    table = MaskTable(VOCABULARY, CPU)
    table._capacity = capacity
    for step in steps:
        rows = sorted(step)
        masks = Masks(np.array(rows, np.int32), [kept[step[row]] for row in rows])
        scores = torch.randn(7, VOCABULARY)
        expected = scores.numpy().copy()
        for row in rows:
            apply_bitmask(expected[row], kept[step[row]])
        table.apply(scores, masks)
        assert np.array_equal(scores.numpy(), expected)
        assert len(table._kept) <= max(capacity, max(len(set(each.values())) for each in steps))


def test_what_was_copied_is_not_copied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    to_device = module.to_device
    monkeypatch.setattr(
        module, "to_device", lambda arrays, *rest: (copied.extend(arrays), to_device(arrays, *rest))[1]
    )
    table, mask = MaskTable(VOCABULARY, CPU), bits(0)
    for _ in range(3):
        table.apply(torch.randn(2, VOCABULARY), Masks(np.array([0, 1], np.int32), [mask, mask]))
    assert copied.count("bits") == 1


def test_of_a_small_vocabulary_no_more_masks_are_kept() -> None:
    """A thousand of them are as many arrays of the host, whatever their size."""
    table = MaskTable(VOCABULARY, CPU)
    for _ in range(5):
        masks = [bits(0) for _ in range(1000)]
        table.apply(torch.zeros(1000, VOCABULARY), Masks(np.arange(1000, dtype=np.int32), masks))
    assert len(table._kept) == 4096


def test_a_mask_comes_after_bias_and_penalties_and_before_top_k() -> None:
    """The best token by far is forbidden, and the best of those allowed is not the next by raw logits."""
    logits = torch.zeros(2, VOCABULARY)
    logits[:, 5], logits[:, 6], logits[:, 7] = 50.0, 4.0, 3.5
    mask = only(6) | only(7)
    none = np.empty(0, np.int32)
    said = History(1, none, np.array([6, 6], np.int32))
    arrays = sampling(
        2,
        temperature=0.01,
        top_k=1,
        frequency_penalty=np.array([0.0, 2.0], np.float32),
        histories=(said,),
        bias_rows=np.array([0], np.int32),
        bias_tokens=np.array([7], np.int32),
        bias_values=np.array([2.0], np.float32),
    )
    sampler = Sampler(VOCABULARY, CPU)
    sampler.begin(arrays)
    rows = np.array([0, 1], np.int32)
    before = logits.clone()
    tokens = sampler(logits, rows, arrays, Masks(rows, [mask, mask]))
    assert tokens.tolist() == [7, 7]
    assert torch.equal(logits, before), "log-probabilities are of the raw logits"


def test_rows_without_a_mask_are_free_and_a_mask_of_nothing_gives_no_token() -> None:
    logits = torch.randn(3, VOCABULARY)
    sampler = Sampler(VOCABULARY, CPU)
    masks = Masks(np.array([0, 2], np.int32), [only(69), np.zeros(3, np.int32)])
    tokens = sampler(logits, np.array([0, 1, 2], np.int32), sampling(3), masks)
    assert tokens.tolist() == [69, int(logits[1].argmax()), -1]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_mask_may_follow_from_the_token_of_the_pass_before(tiny: Path, device: str) -> None:
    """Each pass is launched while the host does not know its token, which it reads when asked for masks."""
    tp = TensorParallel.alone(choose_device(device))
    driver = Driver(make_runner(tiny, tp=tp, device=device))
    words = -(-TINY["vocab_size"] // 32)
    read: list[int] = []

    def after(pending: Pending) -> Masks:
        read.append(int(pending.result().tokens[0]))
        bits = np.zeros(words, np.int32)
        follower = (3 * read[-1] + 5) % TINY["vocab_size"]
        bits.view(np.uint32)[follower // 32] = 1 << follower % 32
        return Masks(np.array([0], np.int32), [bits])

    pending = driver.runner.forward(driver.batch({0: [3, 4, 5, 6]}))
    for _ in range(6):
        before = pending
        pending = driver.runner.forward(driver.batch({0: [-1]}), lambda before=before: after(before))
    read.append(int(pending.result().tokens[0]))
    assert len(read) == 7
    for token, follower in pairwise(read):
        assert follower == (3 * token + 5) % TINY["vocab_size"]
