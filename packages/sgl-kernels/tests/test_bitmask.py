# SPDX-License-Identifier: Apache-2.0
"""Masks of tokens against loops over bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_kernels import apply_token_bitmask

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def masks(rows: int, tokens: int) -> tuple[Tensor, Tensor]:
    """(bitmask, what it allows), made bit by bit."""
    allowed = torch.rand(rows, tokens) < 0.5
    words = [[0] * (-(-tokens // 32)) for _ in range(rows)]
    for row, token in allowed.nonzero().tolist():
        words[row][token // 32] |= 1 << (token % 32)
    signed = [[word - (1 << 32) if word >= 1 << 31 else word for word in row] for row in words]
    return torch.tensor(signed, dtype=torch.int32).view(rows, -(-tokens // 32)), allowed


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("tokens", [1, 31, 32, 33, 100])
def test_a_bit_of_0_forbids(tokens: int, dtype: torch.dtype) -> None:
    bitmask, allowed = masks(3, tokens)
    logits = torch.randn(3, tokens + 2).to(dtype)[:, :tokens]
    before = logits.clone()
    apply_token_bitmask(logits, bitmask)
    assert torch.equal(logits, before.masked_fill(~allowed, float("-inf")))


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("rows", [[2, 0], [4, -1, 1], [-1], []])
def test_some_rows(rows: list[int], index: torch.dtype) -> None:
    bitmask, allowed = masks(len(rows), 40)
    logits = torch.randn(5, 40)
    expected = logits.clone()
    for which, row in enumerate(rows):
        if row >= 0:
            expected[row].masked_fill_(~allowed[which], float("-inf"))
    more = torch.cat([bitmask, torch.zeros_like(bitmask)], 1)  # words beyond the vocabulary
    apply_token_bitmask(logits, more, torch.tensor(rows, dtype=index))
    assert torch.equal(logits, expected)


def test_what_is_refused() -> None:
    logits, bitmask = torch.zeros(2, 40), torch.zeros(2, 2, dtype=torch.int32)
    with pytest.raises(ValueError, match="bitmask: must have 2 words a row for 40 tokens, not 1"):
        apply_token_bitmask(logits, bitmask[:, :1])
    with pytest.raises(ValueError, match="bitmask: must be int32"):
        apply_token_bitmask(logits, bitmask.long())
    with pytest.raises(ValueError, match="bitmask: must be of shape"):
        apply_token_bitmask(logits[:1], bitmask)
    with pytest.raises(ValueError, match="rows: must be of shape"):
        apply_token_bitmask(logits, bitmask, torch.arange(3))
    with pytest.raises(ValueError, match="logits: must be float32"):
        apply_token_bitmask(logits.long(), bitmask)
    with pytest.raises(IndexError):
        apply_token_bitmask(logits, bitmask, torch.tensor([0, 2]))
