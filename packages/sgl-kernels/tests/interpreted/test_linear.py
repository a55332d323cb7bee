# SPDX-License-Identifier: Apache-2.0
"""The kernels of small products, interpreted, against float64: any size, strides, with and without bias."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels._triton.linear import Tile, small_linear

TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 6e-3}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    rows=st.integers(1, 32),
    outputs=st.integers(1, 70),
    inputs=st.integers(1, 300),
    gap=st.sampled_from([0, 3]),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float16, torch.bfloat16]),
    tile=st.sampled_from([Tile(True, 4, 64, 4, 1, 1), Tile(False, 16, 128, 4, 2, 0)]),
)
def test_any_size(
    rows: int, outputs: int, inputs: int, gap: int, bias: bool, dtype: torch.dtype, tile: Tile
) -> None:
    if tile.lanes:
        rows = min(rows, 16)
    else:
        dtype = torch.float16  # the interpreter's tl.dot knows no bfloat16
    generator = torch.Generator().manual_seed(rows * outputs + inputs)
    x = torch.randn(rows, inputs + gap, generator=generator).to(dtype)[:, :inputs]
    weight = torch.randn(outputs, inputs + gap, generator=generator).to(dtype)[:, :inputs]
    b = torch.randn(outputs, generator=generator).to(dtype) if bias else None
    expected = x.double() @ weight.double().T + (0 if b is None else b.double())
    y = small_linear(x, weight, b, overlap=False, tile=tile)
    assert y is not None
    assert y.dtype == dtype and y.shape == (rows, outputs)
    assert (y.double() - expected).norm() <= TOLERANCE[dtype] * expected.norm() + 1e-3


@pytest.mark.parametrize(
    ("rows", "inputs"), [(1, 4096), (1, 1100), (1, 100), (2, 1100), (2, 100), (3, 512), (16, 600), (17, 600)]
)
def test_the_tile_it_chooses_itself(rows: int, inputs: int) -> None:
    x, weight = torch.randn(rows, inputs).half(), torch.randn(40, inputs).half()
    y = small_linear(x, weight, None, overlap=False)
    assert y is not None
    expected = x.double() @ weight.double().T
    assert (y.double() - expected).norm() <= 1e-3 * expected.norm()


def test_where_the_library_is_as_fast() -> None:
    assert small_linear(torch.ones(16, 8).half(), torch.ones(6144, 8).half(), None, overlap=False) is None
