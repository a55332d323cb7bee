# SPDX-License-Identifier: Apache-2.0
"""Penalties, counts and bitmasks on a GPU against the reference on the CPU, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_kernels import apply_penalties, apply_token_bitmask, count_tokens

pytestmark = pytest.mark.gpu


def cuda(arguments: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {name: None if x is None else x.cuda() for name, x in arguments.items()}


@pytest.mark.parametrize(
    ("some", "vocabulary", "index"),
    [
        (False, 128256, torch.int32),
        (True, 32001, torch.int32),
        (True, 128256, torch.int64),
        (True, 1, torch.int32),
    ],
)
def test_penalties(some: bool, vocabulary: int, index: torch.dtype) -> None:
    for k in (0, 1, 9):
        counts = torch.randint(-20, 4, (k + 3 * some, vocabulary)).clamp(min=0).to(index)
        prompts = torch.rand(counts.shape) < 0.05
        logits = torch.randn(k + 2 * some, vocabulary + 3)[:, :vocabulary] * 5
        strengths: dict[str, Tensor | None] = {"frequency": torch.randn(k), "presence": torch.randn(k)}
        strengths["repetition"] = torch.rand(k) + 0.5
        if some:
            strengths["rows"] = torch.randperm(k + 3)[:k].to(index) - 1
            strengths["counted"] = torch.randperm(k + 4)[:k].to(index) - 1
        ours = torch.empty(len(logits), vocabulary + 3, device="cuda")[:, :vocabulary].copy_(logits)
        apply_penalties(ours, counts.cuda(), prompts.cuda(), **cuda(strengths))  # type: ignore[arg-type]
        apply_penalties(logits, counts, prompts, **strengths)  # type: ignore[arg-type]
        torch.testing.assert_close(ours.cpu(), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_counts(index: torch.dtype) -> None:
    for k in (0, 1, 1000):
        counts, tokens = torch.randint(5, (7, 300), dtype=index), torch.randint(-1, 300, (k,))
        counted = torch.randint(-1, 7, (k,), dtype=index)
        ours = counts.cuda()
        count_tokens(ours, tokens.cuda(), counted=counted.cuda())
        count_tokens(counts, tokens, counted=counted)
        assert torch.equal(ours.cpu(), counts)


@pytest.mark.parametrize(
    ("some", "vocabulary", "dtype"),
    [
        (False, 128256, torch.float32),
        (True, 128256, torch.bfloat16),
        (True, 1003, torch.float16),
        (True, 31, torch.float32),
        (False, 1, torch.float32),
    ],
)
def test_bitmask(some: bool, vocabulary: int, dtype: torch.dtype) -> None:
    for n in (0, 1, 9):
        words = torch.randint(-(2**31), 2**31, (n, vocabulary // 32 + 2), dtype=torch.int32)
        logits = torch.randn(n + 2 * some, vocabulary + 1).to(dtype)[:, :vocabulary]
        rows = torch.randperm(n + 3)[:n] - 1 if some else None
        ours = torch.empty(len(logits), vocabulary + 1, device="cuda", dtype=dtype)[:, :vocabulary]
        ours.copy_(logits)
        apply_token_bitmask(ours, words.cuda(), None if rows is None else rows.cuda())
        apply_token_bitmask(logits, words, rows)
        assert torch.equal(ours.cpu(), logits)


def test_more_than_two_to_the_31_logits() -> None:
    rows = 2**31 // 151936 + 2
    logits = torch.zeros(rows, 151936, device="cuda", dtype=torch.bfloat16)
    last = torch.tensor([rows - 1, rows], device="cuda")
    apply_token_bitmask(logits, torch.zeros(2, 4748, dtype=torch.int32, device="cuda"), last)
    assert logits[-1].isneginf().all()
    assert not logits[:-1].any()


def test_in_a_graph() -> None:
    counts = torch.zeros(4, 1000, device="cuda", dtype=torch.int32)
    tokens, ones = torch.zeros(4, device="cuda").long(), torch.ones(4, device="cuda")
    strengths = {"frequency": ones, "presence": ones, "repetition": 2 * ones}
    prompts, logits = counts.bool(), torch.randn(4, 1000, device="cuda")
    words = torch.full((4, 32), -1, device="cuda", dtype=torch.int32)

    def step() -> None:
        count_tokens(counts, tokens)
        apply_penalties(logits, counts, prompts, **strengths)
        apply_token_bitmask(logits, words)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for _ in range(3):
        tokens.random_(1000)
        words.random_(-(2**31), 2**31)
        logits.normal_()
        expected, theirs = logits.cpu(), counts.cpu()
        graph.replay()
        count_tokens(theirs, tokens.cpu())
        cpu = {name: strength.cpu() for name, strength in strengths.items()}
        apply_penalties(expected, theirs, prompts.cpu(), **cpu)
        apply_token_bitmask(expected, words.cpu())
        assert torch.equal(counts.cpu(), theirs)
        torch.testing.assert_close(logits.cpu(), expected, rtol=1e-5, atol=1e-5)
