# SPDX-License-Identifier: Apache-2.0
"""Sampling on a GPU draws what the CPU draws; in a graph, with other parameters for every replay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sgl_kernels import SamplingParameters, sample

pytestmark = pytest.mark.gpu

LIMITS = [
    (0.0, 0, 1.0, 0.0),
    (1.0, 0, 1.0, 0.0),
    (0.7, 50, 1.0, 0.0),
    (1.0, 0, 0.9, 0.0),
    (1.0, 0, 0.0, 0.0),
    (1.0, 0, 1.0, 0.05),
    (1.3, 1000, 0.95, 0.01),
    (1.0, 30000, 1.0, 0.0),
]


def parameters(m: int, limits: tuple[Any, ...], device: str = "cuda", step: int = 0) -> SamplingParameters:
    columns = (np.full(m, value) for value in limits)
    return SamplingParameters.of(*columns, np.arange(m), np.full(m, step), device)


@pytest.mark.parametrize(("dtype", "vocab"), [(torch.float32, 128256), (torch.bfloat16, 32001)])
def test_what_the_cpu_draws(dtype: torch.dtype, vocab: int) -> None:
    for spread in (0.1, 4.0):
        logits = (torch.randn(12, vocab) * spread).to(dtype)
        logits[:, ::7] += 2 * spread
        on_gpu = logits.cuda()
        different = 0
        for limits in LIMITS:
            expected = sample(logits, parameters(12, limits, "cpu"))
            different += int((sample(on_gpu, parameters(12, limits)).cpu() != expected).sum())
        # Sums are made in another order: a row in thousands may differ, at an edge of what is kept.
        assert different <= 1


def test_rows_of_equals() -> None:
    for logits in (torch.zeros(4, 50000), torch.randint(0, 3, (4, 50000)).float()):
        for limits in LIMITS[2:]:
            expected = sample(logits, parameters(4, limits, "cpu"))
            assert torch.equal(sample(logits.cuda(), parameters(4, limits)).cpu(), expected)


def test_frequencies() -> None:
    """Of the eight kept of a thousand, by chi-square."""
    logits = torch.randn(1000, device="cuda")
    n = 1 << 15
    columns = (np.full(n, value) for value in (0.9, 8, 1.0, 0.0))
    drawn = sample(logits.expand(n, -1), SamplingParameters.of(*columns, np.arange(n), np.zeros(n), "cuda"))
    best = logits.topk(8)
    probs = (best.values / 0.9).softmax(-1).double()
    counts = torch.stack([(drawn == token).sum() for token in best.indices]).double()
    assert counts.sum() == n
    assert ((counts - probs * n) ** 2 / (probs * n)).sum() < 7 + 4 * 14**0.5


def test_a_graph_with_other_parameters_in_every_replay() -> None:
    logits = torch.randn(9, 50000, device="cuda")
    fixed = parameters(9, (1.0, 1000, 0.9, 0.0))  # draws, limits, wide: what any other row needs
    sample(logits, fixed)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = sample(logits, fixed)
    for step, limits in enumerate(LIMITS):
        fixed.packed.copy_(parameters(9, limits, step=step).packed)
        logits.copy_(torch.randn_like(logits))
        tokens.fill_(-7)
        graph.replay()
        assert torch.equal(tokens, sample(logits, parameters(9, limits, step=step)))


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_the_host_does_not_wait() -> None:
    logits = torch.randn(9, 50000, device="cuda")
    sample(logits, parameters(9, (1.0, 40, 0.9, 0.0)))
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample(logits, parameters(9, (1.0, 40, 0.9, 0.0)))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rows_that_name_no_token() -> None:
    logits = torch.randn(4, 50000, device="cuda")
    logits[1, 4000], logits[2, 7], logits[3] = float("nan"), float("inf"), float("-inf")
    for limits in LIMITS:
        found = sample(logits, parameters(4, limits)).tolist()
        assert found[0] >= 0
        assert found[1:] == [-1, -1, -1]
