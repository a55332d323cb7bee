# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of penalties, counts and bitmasks, interpreted, against the reference."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_kernels
from sgl_kernels._triton import bitmask, penalty

INDICES = st.sampled_from([torch.int32, torch.int64])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 3), st.integers(1, 2500), st.booleans(), st.booleans(), INDICES)
def test_penalties(k: int, vocabulary: int, some: bool, apart: bool, index: torch.dtype) -> None:
    logits = torch.randn(k + 2 if some else k, vocabulary + 3)[:, :vocabulary] * 4
    held = k + 1 if apart else k
    counts = (torch.randint(-6, 4, (held, vocabulary)).clamp(min=0)).to(index)
    prompts = torch.rand(held, vocabulary + 1)[:, :vocabulary] < 0.1
    options = {
        "frequency": torch.randn(k),
        "presence": torch.randn(k),
        "repetition": torch.rand(k) + 0.5,
        "rows": (torch.randperm(k + 2)[:k] - 1).to(index) if some else None,
        "counted": (torch.randperm(k + 1)[:k] - 1).to(index) if apart else None,
    }
    theirs = logits.clone()
    penalty.apply_penalties(logits, counts, prompts, **options)
    sgl_kernels.apply_penalties(theirs, counts, prompts, **options)
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 200), st.integers(1, 40), st.booleans(), INDICES)
def test_counts(k: int, vocabulary: int, apart: bool, index: torch.dtype) -> None:
    rows = 3 if apart else k
    counts = torch.randint(5, (rows, vocabulary + 1), dtype=index)[:, :vocabulary]
    theirs = counts.clone()
    tokens = torch.randint(-1, vocabulary, (k,), dtype=index)
    counted = torch.randint(-1, rows, (k,), dtype=index) if apart else None
    penalty.count_tokens(counts, tokens, counted=counted)
    sgl_kernels.count_tokens(theirs, tokens, counted=counted)
    assert torch.equal(counts, theirs)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(0, 3),
    st.integers(1, 2500),
    st.booleans(),
    INDICES,
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_bitmask(n: int, vocabulary: int, some: bool, index: torch.dtype, dtype: torch.dtype) -> None:
    logits = torch.randn(n + 1 if some else n, vocabulary + 1).to(dtype)[:, :vocabulary]
    words = torch.randint(-(2**31), 2**31, (n, vocabulary // 32 + 2), dtype=torch.int32)
    rows = (torch.randperm(n + 2)[:n] - 1).to(index) if some else None
    theirs = logits.clone()
    bitmask.apply_token_bitmask(logits, words, rows)
    sgl_kernels.apply_token_bitmask(theirs, words, rows)
    assert torch.equal(logits, theirs)


def test_rows_and_tokens_that_are_not_there_are_left_out() -> None:
    memory = torch.zeros(4, 8)
    logits = memory[:2]
    far = torch.tensor([2, 2**40])
    ones = torch.ones(2)
    seen = torch.ones(2, 8)
    strengths = {"frequency": ones, "presence": ones, "repetition": ones}
    penalty.apply_penalties(logits, seen.int(), seen.bool(), **strengths, rows=far, counted=None)
    penalty.apply_penalties(logits, seen.int(), seen.bool(), **strengths, rows=None, counted=far)
    bitmask.apply_token_bitmask(logits, torch.zeros(2, 1, dtype=torch.int32), far)
    assert not memory.any()
    counts = torch.zeros(4, 8, dtype=torch.int32)
    penalty.count_tokens(counts[:2], torch.tensor([8, 1]), counted=torch.tensor([0, 2]))
    assert not counts.any()
