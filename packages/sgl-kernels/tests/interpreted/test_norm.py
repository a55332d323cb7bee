# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of norms, interpreted, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgl_kernels
from sgl_kernels._triton import norm
from sgl_kernels._triton.norm import Tile

DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16])
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


def compare(ours: Tensor, reference: Tensor) -> None:
    tolerance = TOLERANCE[reference.dtype]
    torch.testing.assert_close(ours, reference, rtol=tolerance, atol=tolerance)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(1, 1100), DTYPES, st.integers(0, 9))
def test_any_shape(rows: int, width: int, dtype: torch.dtype, gap: int) -> None:
    x = (torch.randn(rows, width + gap) * 3 + 1).to(dtype)[:, :width]
    weight, bias = torch.randn(2, width).to(dtype)
    compare(norm.rms_norm(x, weight, 1e-5), sgl_kernels.rms_norm(x, weight, 1e-5))
    compare(norm.gemma_rms_norm(x, weight, 1e-5), sgl_kernels.gemma_rms_norm(x, weight, 1e-5))
    if width == 1 and dtype != torch.float32:
        return  # x - mean(x) is 0 here, in the reference what was lost by rounding
    for factor, shift in ((weight, bias), (weight, None), (None, bias), (None, None)):
        compare(norm.layer_norm(x, factor, shift, 0.1), sgl_kernels.layer_norm(x, factor, shift, 0.1))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 5), st.integers(1, 700), DTYPES, st.integers(0, 9), st.booleans())
def test_with_the_residual(rows: int, width: int, dtype: torch.dtype, gap: int, gemma: bool) -> None:
    x = (torch.randn(rows, width + gap) * 3).to(dtype)[:, :width]
    residual, weight = torch.randn(rows, width).to(dtype), torch.randn(width).to(dtype)
    name = "fused_add_gemma_rms_norm" if gemma else "fused_add_rms_norm"
    theirs, before = residual.clone(), x.clone()
    reference = getattr(sgl_kernels, name)(x, theirs, weight, 1e-6)
    compare(getattr(norm, name)(x, residual, weight, 1e-6), reference)
    compare(residual, theirs)  # the interpreter rounds to bfloat16 towards zero
    assert torch.equal(x, before)


@pytest.mark.parametrize("tile", [Tile(1, 4), Tile(2, 4), Tile(16, 4)])
def test_any_number_of_rows_in_a_program(tile: Tile) -> None:
    x, residual, weight = torch.randn(7, 40), torch.randn(7, 40), torch.randn(40)
    theirs = residual.clone()
    reference = sgl_kernels.fused_add_rms_norm(x, theirs, weight, 1e-6)
    compare(norm.launch(x, residual, weight, None, 1e-6, tile=tile), reference)
    assert torch.equal(residual, theirs)


def test_more_dimensions() -> None:
    wide, weight = torch.randn(2, 3, 4, 11), torch.randn(8)
    views = (
        wide[:, :2, :, :8],
        wide[:, :2, 1, :8],
        wide[0, ..., 1:9],
        wide[:, 1:2, 0, :8],
        wide[1, 2, 3, :8],
    )
    for x in (torch.randn(8), torch.randn(2, 3, 8), *views, wide.transpose(0, 2)[..., :8]):
        compare(norm.rms_norm(x, weight, 1e-6), sgl_kernels.rms_norm(x, weight, 1e-6))


def test_a_constant_row_has_no_variance() -> None:
    x = torch.full((2, 100), 3.0)
    out = norm.layer_norm(x, None, torch.full((100,), 0.5), 1e-5)
    assert torch.equal(out, torch.full((2, 100), 0.5))
