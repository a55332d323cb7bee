# SPDX-License-Identifier: Apache-2.0
"""The noise inside kernels, interpreted: the bits of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from sgl_kernels._triton.noise import exponential
from sgl_kernels.noise import negative_exponential, row_keys, spread

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # integers that wrap around


@triton.jit
def _fill(keys_ptr, numbers_ptr, out_ptr, m, n, N: tl.constexpr):
    row, at = tl.program_id(0), tl.arange(0, N)
    numbers = tl.load(numbers_ptr + at, at < n, other=0)
    drawn = exponential(tl.load(keys_ptr + row), tl.load(keys_ptr + m + row), numbers)
    tl.store(out_ptr + row * n + at, drawn, at < n)


def test_the_noise_of_the_reference() -> None:
    seeds = np.array([0, 1, 42, 2**63 - 1, -5], np.int64)
    keys = torch.from_numpy(row_keys(seeds, np.array([0, 7, 2**31 - 1, 1, 2], np.int32)))
    numbers = torch.cat([torch.arange(-300, 300), torch.tensor([128255, 2**31 - 1, -(2**31)])]).int()
    out = torch.full((5, len(numbers)), float("nan"))
    _fill[(5,)](keys, numbers, out, 5, len(numbers), N=1024)
    torch.testing.assert_close(out, -negative_exponential(keys, spread(numbers)), rtol=3e-7, atol=0)
