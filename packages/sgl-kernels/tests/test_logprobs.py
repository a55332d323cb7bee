# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities against numpy float64, and how many logits exist at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from sgl_kernels import TokenLogprobs, logprobs, logprobs_of_hidden, logprobs_of_logits

P, V = 23, 50


def check(found: TokenLogprobs, logits: Tensor, targets: Tensor, top: int) -> None:
    exact = logits.double().numpy()
    exact = exact - exact.max(-1, keepdims=True)
    exact = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    order = np.argsort(-exact, axis=-1, kind="stable")[:, :top]
    rows = np.arange(len(targets))
    assert found.target.dtype == found.top_values.dtype == torch.float32
    assert found.top_tokens.dtype == torch.int32
    np.testing.assert_allclose(found.target.numpy(), exact[rows, targets.numpy()], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.top_tokens.numpy(), order)
    np.testing.assert_allclose(found.top_values.numpy(), exact[rows[:, None], order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("top", [0, 1, 5])
@pytest.mark.parametrize("rows", [0, 1, P])
def test_of_logits(rows: int, top: int) -> None:
    logits, targets = torch.randn(rows, V) * 5, torch.randint(V, (rows,), dtype=torch.int32)
    check(logprobs_of_logits(logits, targets, top), logits, targets, top)


def test_bfloat16_logits_are_reduced_in_float32() -> None:
    logits, targets = (torch.randperm(P * V).view(P, V) / 64).bfloat16(), torch.randint(V, (P,))
    found = logprobs_of_logits(logits, targets, 0)
    check(found, logits, targets, 0)


@pytest.mark.parametrize("top", [0, 3])
def test_of_hidden_in_slices(top: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "_PROJECTED", 11 * V + 3)
    monkeypatch.setattr(logprobs, "_REDUCED", 2 * V)
    hidden, head, targets = torch.randn(P, 8), torch.randn(V, 8), torch.randint(V, (P,))
    sizes = []

    def project(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return some @ head.T

    found = logprobs_of_hidden(hidden, project, targets, top, V)
    check(found, hidden @ head.T, targets, top)
    assert sizes == [8, 8, 7]  # a multiple of four, so that each slice of the targets begins aligned


@pytest.mark.parametrize("top", [0, 3])
def test_several_targets_of_a_hidden_state_are_projected_once(
    top: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "_PROJECTED", 4 * V)
    counts = [1, 5, 1, 2, 1, 9]
    hidden, head, targets = torch.randn(6, 8), torch.randn(V, 8), torch.randint(V, (sum(counts),))
    sizes = []

    def project(some: Tensor) -> Tensor:
        sizes.append(len(some))
        return some @ head.T

    found = logprobs_of_hidden(hidden, project, targets, top, V, counts)
    check(found, (hidden @ head.T).repeat_interleave(torch.tensor(counts), 0), targets, top)
    assert sizes == [4, 2]


def test_several_targets_of_which_one_is_no_token_and_rows_without_probabilities() -> None:
    logits, targets = torch.randn(3, V), torch.tensor([1, V, 2, 3, -1, 4])
    logits[1, 7], logits[2, 7] = float("nan"), float("inf")
    found = logprobs_of_hidden(logits, lambda x: x, targets, 0, V, [2, 2, 2]).target
    assert found.isfinite().tolist() == [True, False, False, False, False, False]


def test_a_vocabulary_larger_than_a_slice_goes_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logprobs, "_PROJECTED", V // 2)
    monkeypatch.setattr(logprobs, "_REDUCED", V // 2)
    hidden, head, targets = torch.randn(3, 8), torch.randn(V, 8), torch.randint(V, (3,))
    check(logprobs_of_hidden(hidden, lambda x: x @ head.T, targets, 2, V), hidden @ head.T, targets, 2)
