# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of experts, interpreted, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels import fused_experts
from sgl_kernels._triton import moe
from sgl_kernels.moe import Activation

# The interpreter takes the bits of bfloat16 for integers in a product; GPU tests have it.
DTYPES = st.sampled_from([torch.float32, torch.float16])
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3}
TILES = (moe.Tile(16, 32, 16, 4, 2, together=2), moe.Tile(16, 16, 32, 4, 2, together=3))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(0, 40), st.integers(1, 5), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40),
    DTYPES, st.sampled_from(["silu", "gelu", "gelu_tanh"]), st.integers(0, 9),
)  # fmt: skip
def test_any_shape(
    tokens: int, number: int, k: int, width: int, inner: int, dtype: torch.dtype, act: Activation, gap: int
) -> None:
    x = torch.randn(tokens, width + gap).to(dtype)[:, :width]
    gate_up = (torch.randn(number, 2 * inner, width) / width**0.5).to(dtype)
    down = (torch.randn(number, width, inner) / inner**0.5).to(dtype)
    experts = torch.randint(-1, number + 1, (tokens, k))
    weights = torch.rand(tokens, k)
    ours = moe.fused_experts(x, gate_up, down, weights, experts, act, TILES)
    reference = fused_experts(x, gate_up, down, weights, experts, activation=act)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, reference, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("experts", [[[0]] * 35, [[2], [2], [1]], [[-1], [3], [-1]]])
def test_all_in_one_place_or_nowhere(experts: list[list[int]]) -> None:
    x, gate_up, down = torch.randn(len(experts), 8), torch.randn(3, 12, 8), torch.randn(3, 8, 6)
    arguments = (x, gate_up, down, torch.rand(len(experts), 1), torch.tensor(experts))
    torch.testing.assert_close(moe.fused_experts(*arguments, "silu", TILES), fused_experts(*arguments))
