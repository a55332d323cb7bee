# SPDX-License-Identifier: Apache-2.0
"""Norms against numpy float64 and transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sgl_kernels import fused_add_rms_norm, rms_norm


@pytest.mark.parametrize("shape", [(576,), (1, 576), (3, 5, 64)])
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_rms_norm(shape: tuple[int, ...], eps: float) -> None:
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    exact = x.double().numpy()
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + eps) * weight.double().numpy()
    np.testing.assert_allclose(rms_norm(x, weight, eps).numpy(), exact, rtol=1e-5, atol=1e-6)
    theirs = LlamaRMSNorm(shape[-1], eps)
    theirs.weight.data = weight
    torch.testing.assert_close(rms_norm(x, weight, eps), theirs(x).detach())


def test_sums_are_float32_when_the_input_is_not() -> None:
    x, weight = torch.full((1, 4096), 300.0, dtype=torch.float16), torch.ones(4096, dtype=torch.float16)
    out = rms_norm(x, weight, 1e-6)  # 300² overflows float16
    assert out.dtype == torch.float16
    torch.testing.assert_close(out, torch.ones_like(x))


def test_fused_add_rms_norm_updates_the_residual() -> None:
    x, residual, weight = torch.randn(4, 64), torch.randn(4, 64), torch.randn(64)
    total, before = x + residual, x.clone()
    out = fused_add_rms_norm(x, residual, weight, 1e-5)
    assert torch.equal(residual, total)
    assert torch.equal(x, before)
    torch.testing.assert_close(out, rms_norm(total, weight, 1e-5))
