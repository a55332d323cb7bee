# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of log-probabilities, interpreted, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels import logprobs_of_logits
from sgl_kernels._triton import logprobs

# Numpy warns of infinity less infinity; a GPU does not.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 3), st.integers(1, 2500), DTYPES, st.integers(0, 9), st.integers(0, 30), st.booleans())
def test_any_shape(rows: int, vocab: int, dtype: torch.dtype, gap: int, top: int, ties: bool) -> None:
    logits = torch.randn(rows, vocab + gap) * 4
    logits = (logits.round() if ties else logits).to(dtype)[:, :vocab]
    logits[:, vocab // 2 : vocab // 2 + vocab // 4] = float("-inf")
    top = min(top, vocab)
    targets = torch.randint(-1, vocab + 1, (rows,), dtype=torch.int32)
    ours, reference = (
        logprobs.logprobs_of_logits(logits, targets, top),
        logprobs_of_logits(logits, targets, top),
    )
    torch.testing.assert_close(ours.target, reference.target, rtol=1e-5, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(ours.top_values, reference.top_values, rtol=1e-5, atol=1e-5)
    # Equally likely tokens may come in another order: none twice, each with its own value.
    assert all(len(set(row)) == top for row in ours.top_tokens.tolist())
    theirs = logits.float().log_softmax(-1).gather(1, ours.top_tokens.long())
    torch.testing.assert_close(ours.top_values, theirs, rtol=1e-5, atol=1e-5)


def test_all_of_equals() -> None:
    found = logprobs.logprobs_of_logits(torch.zeros(1, 300), torch.tensor([7]), 300)
    assert sorted(found.top_tokens[0].tolist()) == list(range(300))


def test_a_row_without_numbers_leaves_the_others_alone() -> None:
    logits = torch.randn(3, 200)
    logits[1, 3] = float("nan")
    ours, reference = (
        f(logits, torch.tensor([1, 2, 3]), 4) for f in (logprobs.logprobs_of_logits, logprobs_of_logits)
    )
    torch.testing.assert_close(ours.target, reference.target, equal_nan=True)
    assert torch.equal(ours.top_tokens[[0, 2]], reference.top_tokens[[0, 2]])
