# SPDX-License-Identifier: Apache-2.0
"""The Triton kernel that merges states, interpreted, against the reference."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels import merge_states
from sgl_kernels._triton import merge


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 3), st.integers(1, 40)),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    empty=st.sampled_from([0.0, 0.3, 1.0]),
    strided=st.booleans(),
)
def test_any_shape(shape: tuple[int, int, int, int], dtype: torch.dtype, empty: float, strided: bool) -> None:
    n, states, heads, dim = shape
    out, lse = torch.randn(n, states, heads, dim).to(dtype), 20 * torch.randn(n, states, heads)
    lse[torch.rand(lse.shape) < empty] = float("-inf")
    out[lse == float("-inf")] = float("nan")
    if strided:
        out = out.transpose(1, 2).contiguous().transpose(1, 2)
        lse = torch.stack([lse, lse], -1)[..., 0]
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    for ours, theirs in zip(merge.merge_states(out, lse), merge_states(out, lse), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
