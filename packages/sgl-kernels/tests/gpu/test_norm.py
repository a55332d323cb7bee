# SPDX-License-Identifier: Apache-2.0
"""Norms on a GPU against float64 and the reference on the CPU, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sgl_kernels

pytestmark = pytest.mark.gpu

ERROR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
NAMES = ["rms_norm", "gemma_rms_norm", "layer_norm"]
# Each is compiled: every width, every dtype and every name, not every combination.
CASES = [
    *(("rms_norm", width, torch.bfloat16) for width in (1, 63, 128, 4096, 65536)),
    *((name, 5120, torch.bfloat16) for name in NAMES),
    *((name, 576, torch.float32) for name in NAMES),
    ("layer_norm", 2880, torch.float16),
]


def exact(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    x, weight, bias = x.double(), weight.double(), bias.double()
    if name == "layer_norm":
        x = x - x.mean(-1, keepdim=True)
        return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight + bias
    x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    return x * (weight + 1 if "gemma" in name else weight)


def ours(name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    more = (bias,) if name == "layer_norm" else ()
    return getattr(sgl_kernels, name)(x, weight, *more, 1e-5)


@pytest.mark.parametrize(("name", "width", "dtype"), CASES)
def test_norm(name: str, width: int, dtype: torch.dtype) -> None:
    for rows in (0, 1, 7, 300):
        x = (torch.randn(rows, width + 8, device="cuda") * 3 + 1).to(dtype)[:, :width]
        weight, bias = torch.randn(2, width, device="cuda").to(dtype)
        out, expected = ours(name, x, weight, bias), exact(name, x, weight, bias)
        assert out.dtype == dtype
        assert (out.double() - expected).norm() <= ERROR[dtype] * expected.norm()
        if rows == 7:
            oracle = ours(name, x.cpu(), weight.cpu(), bias.cpu())
            assert (out.cpu().double() - oracle.double()).norm() <= 2 * ERROR[dtype] * expected.norm()


@pytest.mark.parametrize(
    ("name", "width", "dtype"),
    [
        ("rms_norm", 4096, torch.bfloat16),
        ("rms_norm", 63, torch.float16),
        ("rms_norm", 5120, torch.float32),
        ("gemma_rms_norm", 2880, torch.bfloat16),
    ],
)
def test_with_the_residual(name: str, width: int, dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 33, width, device="cuda").to(dtype)
    weight = torch.randn(width, device="cuda").to(dtype)
    total = residual + x
    out = getattr(sgl_kernels, f"fused_add_{name}")(x, residual, weight, 1e-5)
    expected = exact(name, total, weight, weight)
    assert torch.equal(residual, total)
    assert (out.double() - expected).norm() <= ERROR[dtype] * expected.norm()


def test_heads_of_a_projection() -> None:
    qkv = torch.randn(5, 48, 128, device="cuda").bfloat16()
    weight = torch.randn(128, device="cuda").bfloat16()
    for x in (qkv[:, :32], qkv[:, 32:40], qkv[:, ::3], qkv[:1, :7], qkv.transpose(0, 1)):
        expected = exact("rms_norm", x, weight, weight)
        out = sgl_kernels.rms_norm(x, weight, 1e-5)
        assert (out.double() - expected).norm() <= 6e-3 * expected.norm()


def test_rows_beyond_two_to_the_31_elements() -> None:
    rows, width = (2**31 // 4096) + 3, 4096
    x = torch.empty(rows, width, device="cuda", dtype=torch.bfloat16)
    x[-2:].normal_()
    weight = torch.ones(width, device="cuda", dtype=torch.bfloat16)
    expected = exact("rms_norm", x[-2:], weight, weight)
    out = sgl_kernels.rms_norm(x, weight, 1e-5)[-2:]
    assert (out.double() - expected).norm() <= 6e-3 * expected.norm()


def test_in_a_graph() -> None:
    x, residual = torch.randn(2, 16, 4096, device="cuda").bfloat16()
    weight = torch.randn(4096, device="cuda").bfloat16()
    sgl_kernels.fused_add_rms_norm(x, residual, weight, 1e-5)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = sgl_kernels.fused_add_rms_norm(x, residual, weight, 1e-5)
    for _ in range(3):
        x.normal_()
        residual.normal_()
        out.fill_(float("nan"))
        total = x + residual
        graph.replay()
        expected = exact("rms_norm", total, weight, weight)
        assert torch.equal(residual, total)
        assert (out.double() - expected).norm() <= 6e-3 * expected.norm()
