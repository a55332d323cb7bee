# SPDX-License-Identifier: Apache-2.0
"""Norms against numpy float64 and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from sgl_kernels import fused_add_gemma_rms_norm, fused_add_rms_norm, gemma_rms_norm, layer_norm, rms_norm

SHAPES = [(576,), (1, 576), (3, 5, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_rms_norm(shape: tuple[int, ...], eps: float) -> None:
    x, weight = torch.randn(shape) * 3, torch.randn(shape[-1])
    exact = x.double().numpy()
    exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + eps) * weight.double().numpy()
    np.testing.assert_allclose(rms_norm(x, weight, eps).numpy(), exact, rtol=1e-5, atol=1e-6)
    theirs = LlamaRMSNorm(shape[-1], eps)
    theirs.weight.data = weight
    torch.testing.assert_close(rms_norm(x, weight, eps), theirs(x).detach())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gemma_rms_norm_is_that_of_transformers(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, weight = (torch.randn(shape) * 3).to(dtype), torch.randn(shape[-1]).to(dtype)
    theirs = Gemma3RMSNorm(shape[-1], 1e-5)
    theirs.weight.data = weight
    assert torch.equal(gemma_rms_norm(x, weight, 1e-5), theirs(x).detach())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scaled", "shifted"), [(True, True), (True, False), (False, True), (False, False)])
def test_layer_norm(shape: tuple[int, ...], scaled: bool, shifted: bool) -> None:
    x = torch.randn(shape) * 3 + 2
    weight = torch.randn(shape[-1]) if scaled else None
    bias = torch.randn(shape[-1]) if shifted else None
    exact = x.double().numpy()
    exact = (exact - exact.mean(-1, keepdims=True)) / np.sqrt(exact.var(-1, keepdims=True) + 1e-5)
    exact = exact * (1 if weight is None else weight.double().numpy())
    exact = exact + (0 if bias is None else bias.double().numpy())
    np.testing.assert_allclose(layer_norm(x, weight, bias, 1e-5).numpy(), exact, rtol=1e-5, atol=1e-5)


def test_sums_are_float32_when_the_input_is_not() -> None:
    x, weight = torch.full((1, 4096), 300.0, dtype=torch.float16), torch.ones(4096, dtype=torch.float16)
    for out in (rms_norm(x, weight, 1e-6), gemma_rms_norm(x, 0 * weight, 1e-6)):  # 300² overflows float16
        assert out.dtype == torch.float16
        torch.testing.assert_close(out, torch.ones_like(x))


@pytest.mark.parametrize(
    ("fused", "norm"), [(fused_add_rms_norm, rms_norm), (fused_add_gemma_rms_norm, gemma_rms_norm)]
)
def test_the_fused_ones_update_the_residual(fused: Any, norm: Any) -> None:
    x, residual, weight = torch.randn(4, 64), torch.randn(4, 64), torch.randn(64)
    total, before = x + residual, x.clone()
    out = fused(x, residual, weight, 1e-5)
    assert torch.equal(residual, total)
    assert torch.equal(x, before)
    torch.testing.assert_close(out, norm(total, weight, 1e-5))


def test_what_is_refused() -> None:
    x, weight = torch.zeros(3, 8), torch.zeros(8)
    with pytest.raises(ValueError, match="x: must be float32"):
        rms_norm(x.long(), weight, 1e-5)
    with pytest.raises(ValueError, match="x: elements of the last dimension"):
        gemma_rms_norm(torch.zeros(8, 3).t(), weight, 1e-5)
    with pytest.raises(ValueError, match="x: the last dimension must have 1 to 65536 elements"):
        layer_norm(torch.zeros(3, 0), None, None, 1e-5)
    with pytest.raises(ValueError, match="weight: must be of shape"):
        rms_norm(x, weight[:7], 1e-5)
    with pytest.raises(ValueError, match="weight: must be float32"):
        rms_norm(x, weight.half(), 1e-5)
    with pytest.raises(ValueError, match="bias: must be of shape"):
        layer_norm(x, weight, weight[:7], 1e-5)
    with pytest.raises(ValueError, match="residual: must be of shape"):
        fused_add_rms_norm(x, x[:2].clone(), weight, 1e-5)
    with pytest.raises(ValueError, match="residual: must be contiguous"):
        fused_add_gemma_rms_norm(x, torch.zeros(3, 9)[:, :8], weight, 1e-5)
