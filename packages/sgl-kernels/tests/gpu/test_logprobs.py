# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities on a GPU against float64, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from sgl_kernels import logprobs_of_logits

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "vocab", "top"), [(0, 100, 1), (5, 999, 0), (300, 32000, 1), (17, 128256, 20)]
)
def test_against_float64(rows: int, vocab: int, top: int, dtype: torch.dtype) -> None:
    logits = (torch.randn(rows, vocab + 3, device="cuda") * 5).to(dtype)[:, :vocab]
    targets = torch.randint(vocab, (rows,), device="cuda")
    found = logprobs_of_logits(logits, targets, top)
    exact = logits.double().log_softmax(-1)
    torch.testing.assert_close(
        found.target.double(), exact.gather(1, targets[:, None]).squeeze(1), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(found.top_values.double(), exact.topk(top).values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        exact.gather(1, found.top_tokens.long()), found.top_values.double(), rtol=1e-5, atol=1e-5
    )
    assert all(len(set(row)) == top for row in found.top_tokens.tolist())


def test_in_a_graph() -> None:
    logits, targets = torch.randn(7, 3000, device="cuda"), torch.arange(7, device="cuda")
    logprobs_of_logits(logits, targets, 5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = logprobs_of_logits(logits, targets, 5)
    logits.copy_(torch.randn_like(logits))
    graph.replay()
    again = logprobs_of_logits(logits, targets, 5)
    assert torch.equal(found.target, again.target)
    assert torch.equal(found.top_tokens, again.top_tokens)
