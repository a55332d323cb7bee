# SPDX-License-Identifier: Apache-2.0
"""Penalties against loops and transformers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from sgl_kernels import apply_penalties

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
V = 30


def counts_of(rows: list[list[int]]) -> Tensor:
    counts = torch.zeros(len(rows), V, dtype=torch.int32)
    for r, tokens in enumerate(rows):
        for token in tokens:
            counts[r, token] += 1
    return counts


PROMPTS = [[1, 2, 2, 7], [], [5], [9, 9]]
OUTPUTS = [[2, 3, 3, 3], [4, 4], [], [9, 0]]


@pytest.mark.parametrize("device", DEVICES)
def test_all_three_together(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    logits = torch.randn(4, V) * 4
    frequency, presence = torch.tensor([0.5, -0.25, 1.0, 0.0]), torch.tensor([0.1, 2.0, 0.0, -1.0])
    repetition = torch.tensor([1.3, 0.7, 2.0, 1.0])
    expected = logits.clone()
    for r in range(4):
        for token in set(PROMPTS[r] + OUTPUTS[r]):
            value = logits[r, token]
            value = value / repetition[r] if value > 0 else value * repetition[r]
            value = value - frequency[r] * OUTPUTS[r].count(token)
            expected[r, token] = value - (presence[r] if token in OUTPUTS[r] else 0)
    changed = logits.to(device)
    apply_penalties(
        changed,
        counts_of(OUTPUTS).to(device),
        (counts_of(PROMPTS) > 0).to(device),
        frequency=frequency.to(device),
        presence=presence.to(device),
        repetition=repetition.to(device),
    )
    torch.testing.assert_close(changed.cpu(), expected)


def test_repetition_is_that_of_transformers() -> None:
    logits = torch.randn(1, V) * 4
    zero = torch.zeros(1)
    ours = logits.clone()
    apply_penalties(
        ours,
        counts_of(OUTPUTS[:1]),
        counts_of(PROMPTS[:1]) > 0,
        frequency=zero,
        presence=zero,
        repetition=torch.tensor([1.7]),
    )
    theirs = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([PROMPTS[0] + OUTPUTS[0]]), logits.clone())
    torch.testing.assert_close(ours, theirs)
