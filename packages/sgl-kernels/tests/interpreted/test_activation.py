# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of gated activations, interpreted, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels import gelu_and_mul, silu_and_mul
from sgl_kernels._triton import activation

# exp(-x) of a very negative gate is infinite, and so its sigmoid 0, as it should be.
pytestmark = pytest.mark.filterwarnings("ignore:.*overflow encountered in exp")

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(0, 1100), DTYPES, st.integers(0, 9))
def test_any_shape(rows: int, width: int, dtype: torch.dtype, gap: int) -> None:
    x = (torch.randn(rows, 2 * width + gap) * 3).to(dtype)[:, : 2 * width]
    for ours, reference in (
        (activation.silu_and_mul(x), silu_and_mul(x)),
        (activation.gelu_and_mul(x), gelu_and_mul(x)),
        (activation.gelu_and_mul(x, approximate="tanh"), gelu_and_mul(x, approximate="tanh")),
    ):
        torch.testing.assert_close(ours, reference, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_more_dimensions() -> None:
    wide = torch.randn(2, 3, 4, 11)
    for x in (
        torch.randn(8),
        torch.randn(2, 3, 8),
        wide[:, :2, :, :8],
        wide[:, :2, 1, :8],
        wide[0, ..., 1:9],
    ):
        torch.testing.assert_close(activation.silu_and_mul(x), silu_and_mul(x))


def test_very_negative_gates_give_nothing() -> None:
    x = torch.tensor([[-200.0, -1e30, 3.0, 3.0]])
    for ours in (activation.silu_and_mul(x), activation.gelu_and_mul(x[:, [0, 2]], approximate="tanh")):
        assert torch.equal(ours, torch.zeros_like(ours))


@pytest.mark.parametrize("x", [torch.randn(2, 3), torch.randn(4, 6).t(), torch.ones(2, 4, dtype=torch.int32)])
def test_what_is_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="x: "):
        silu_and_mul(x)
