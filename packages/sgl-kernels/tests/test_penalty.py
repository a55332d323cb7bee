# SPDX-License-Identifier: Apache-2.0
"""Penalties against loops and transformers; counts against loops."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor

from sgl_kernels import apply_penalties, count_tokens

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


@pytest.mark.parametrize(
    ("rows", "counted"), [([3, 1], [0, 1]), ([2, -1, 0], [1, 2, -1]), ([], []), ([-1], [0])]
)
def test_some_rows_in_any_order(rows: list[int], counted: list[int]) -> None:
    logits, counts, prompts = torch.randn(4, V), counts_of(OUTPUTS), counts_of(PROMPTS) > 0
    strengths = {"frequency": torch.rand(len(rows)), "presence": torch.rand(len(rows))}
    strengths["repetition"] = torch.rand(len(rows)) + 1
    expected = logits.clone()
    for i, (row, place) in enumerate(zip(rows, counted, strict=True)):
        if row >= 0 and place >= 0:
            mine = {name: strength[i : i + 1] for name, strength in strengths.items()}
            one = expected[row : row + 1]
            apply_penalties(one, counts[place : place + 1], prompts[place : place + 1], **mine)
    where = {"rows": torch.tensor(rows).long(), "counted": torch.tensor(counted).int()}
    apply_penalties(logits, counts, prompts, **strengths, **where)
    assert torch.equal(logits, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_count_tokens(dtype: torch.dtype) -> None:
    counts = counts_of(OUTPUTS).to(dtype)
    expected = counts.clone()
    tokens, rows = [3, 3, -1, 29, 0], [0, 0, 1, 3, -1]
    for row, token in zip(rows, tokens, strict=True):
        if row >= 0 and token >= 0:
            expected[row, token] += 1
    count_tokens(counts, torch.tensor(tokens), counted=torch.tensor(rows, dtype=torch.int32))
    assert torch.equal(counts, expected)
    count_tokens(counts, torch.tensor([5, -1, 6, 6]))
    expected[[0, 2, 3], [5, 6, 6]] += 1
    assert torch.equal(counts, expected)


def test_what_is_refused() -> None:
    logits, counts, prompts = torch.zeros(2, V), torch.zeros(2, V).int(), torch.zeros(2, V).bool()
    strengths = dict(zip(("frequency", "presence", "repetition"), torch.ones(3, 2), strict=True))
    for change, message in (
        ({"logits": logits.half()}, "logits: must be float32"),
        ({"output_counts": logits}, "output_counts: must be int32 or int64"),
        ({"output_counts": counts[:1], "prompt_mask": prompts[:1]}, "output_counts: must be of shape"),
        ({"prompt_mask": counts}, "prompt_mask: must be bool"),
        ({"presence": torch.ones(3)}, "presence: must be of shape"),
        ({"rows": torch.arange(3)}, "frequency: must be of shape"),
        ({"counted": torch.arange(3)}, "counted: must be of shape"),
    ):
        arguments = {"logits": logits, "output_counts": counts, "prompt_mask": prompts} | strengths | change
        with pytest.raises(ValueError, match=message):
            apply_penalties(**arguments)
    with pytest.raises(ValueError, match="tokens: must be int32 or int64"):
        count_tokens(counts, torch.zeros(2))
    with pytest.raises(ValueError, match="counted: must be of shape"):
        count_tokens(counts, torch.zeros(2).long(), counted=torch.arange(3))
    for where in ({"rows": torch.tensor([0, 2])}, {"counted": torch.tensor([0, 2])}):
        with pytest.raises(IndexError):
            apply_penalties(logits, counts, prompts, **strengths, **where)
    with pytest.raises(IndexError):
        count_tokens(counts, torch.tensor([V, 0]))
