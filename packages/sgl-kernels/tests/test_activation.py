# SPDX-License-Identifier: Apache-2.0
"""Gated activations against transformers' activations and math.erf."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from sgl_kernels import gelu_and_mul, silu_and_mul


@pytest.mark.parametrize("shape", [(64,), (1, 3072), (2, 3, 10)])
def test_silu_and_mul(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape) * 3
    before = x.clone()
    gate, up = x.chunk(2, -1)
    torch.testing.assert_close(silu_and_mul(x), ACT2FN["silu"](gate) * up)
    assert torch.equal(x, before)


def test_gelu_and_mul() -> None:
    x = torch.randn(5, 64) * 3
    gate, up = x.chunk(2, -1)
    exact = np.vectorize(lambda g: 0.5 * g * (1 + math.erf(g / math.sqrt(2))))(gate.double().numpy())
    np.testing.assert_allclose(gelu_and_mul(x).numpy(), exact * up.double().numpy(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gelu_and_mul(x, approximate="tanh"), ACT2FN["gelu_pytorch_tanh"](gate) * up)
    assert not torch.equal(gelu_and_mul(x), gelu_and_mul(x, approximate="tanh"))
