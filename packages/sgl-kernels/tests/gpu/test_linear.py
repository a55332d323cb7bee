# SPDX-License-Identifier: Apache-2.0
"""Small products on a GPU against float64, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from sgl_kernels import PackedWeight, linear

pytestmark = pytest.mark.gpu

ERROR = {torch.float16: 1e-3, torch.bfloat16: 6e-3}


@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "gap", "bias", "dtype"),
    [
        (1, 6144, 4096, 0, False, torch.bfloat16),
        (1, 577, 1000, 1, True, torch.float16),
        (1, 3, 14336, 8, True, torch.bfloat16),
        (2, 4096, 4096, 0, True, torch.bfloat16),
        (2, 5, 7, 1, False, torch.bfloat16),
        (3, 4096, 4096, 8, False, torch.bfloat16),
        (7, 577, 1000, 1, True, torch.float16),
        (16, 66000, 96, 0, True, torch.bfloat16),
        (16, 6144, 64, 0, False, torch.bfloat16),
        (17, 4096, 512, 0, True, torch.bfloat16),
        (29, 16500, 1000, 0, True, torch.float16),
        (32, 4096, 4096, 8, False, torch.bfloat16),
        (33, 4096, 512, 0, True, torch.bfloat16),
    ],
)
def test_product(rows: int, outputs: int, inputs: int, gap: int, bias: bool, dtype: torch.dtype) -> None:
    x = torch.randn(rows, inputs + gap, device="cuda").to(dtype)[:, :inputs]
    weight = torch.randn(outputs, inputs + gap, device="cuda").to(dtype)[:, gap:]
    b = torch.randn(outputs, device="cuda").to(dtype) if bias else None
    expected = x.double() @ weight.double().T + (0 if b is None else b.double())
    for y in (linear(x, weight, b), PackedWeight(weight).multiply(x, b)):
        assert y.dtype == dtype
        assert (y.double() - expected).norm() <= ERROR[dtype] * expected.norm()


@pytest.mark.parametrize("rows", [1, 8, 24])
def test_a_chain_in_a_graph(rows: int) -> None:
    """Each product reads what the one before has written, also where launches overlap."""
    x = torch.zeros(rows, 1024, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(1024, 1024, device="cuda").bfloat16() / 32 for _ in range(8)]
    layers = [PackedWeight(weight) for weight in weights]

    def chain() -> torch.Tensor:
        y = x
        for layer in layers:
            y = layer.multiply(y)
        return y

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = chain()
    for _ in range(20):
        x.copy_(torch.randn_like(x))
        graph.replay()
        expected = x.double()
        for weight in weights:
            expected = expected @ weight.double().T
        assert (y.double() - expected).norm() <= 2e-2 * expected.norm()
