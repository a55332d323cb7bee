# SPDX-License-Identifier: Apache-2.0
"""Gated activations on a GPU against float64 and the reference on the CPU, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels import gelu_and_mul, silu_and_mul

pytestmark = pytest.mark.gpu

ERROR = {torch.float32: 4e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def ours(kind: str, x: Tensor) -> Tensor:
    if kind == "silu":
        return silu_and_mul(x)
    return gelu_and_mul(x, approximate="tanh" if kind == "tanh" else "none")


def exact(kind: str, x: Tensor) -> Tensor:
    gate, up = x.double().chunk(2, -1)
    if kind == "silu":
        return F.silu(gate) * up
    return F.gelu(gate, approximate=kind) * up


@pytest.mark.parametrize("dtype", list(ERROR))
@pytest.mark.parametrize("kind", ["silu", "none", "tanh"])
def test_activation(kind: str, dtype: torch.dtype) -> None:
    for rows, width in ((0, 7), (1, 1), (1, 14336), (5, 7), (5, 1000), (129, 1000)):
        x = (torch.randn(rows, 2 * width + 3, device="cuda") * 3).to(dtype)[:, : 2 * width]
        out, expected = ours(kind, x), exact(kind, x)
        assert out.dtype == dtype
        assert (out.double() - expected).norm() <= ERROR[dtype] * expected.norm()
        if rows == 5:
            oracle = ours(kind, x.cpu()).double()
            assert (out.cpu().double() - oracle).norm() <= 2 * ERROR[dtype] * expected.norm()


def test_more_than_two_to_the_31_elements() -> None:
    x = torch.empty(2**31 // 8192 + 3, 8192, device="cuda", dtype=torch.bfloat16)
    x[-2:].normal_()
    expected = exact("silu", x[-2:])
    assert (silu_and_mul(x)[-2:].double() - expected).norm() <= 6e-3 * expected.norm()


@pytest.mark.parametrize("kind", ["silu", "none", "tanh"])
def test_in_a_graph(kind: str) -> None:
    x = torch.randn(3, 2 * 1000, device="cuda").bfloat16()
    ours(kind, x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ours(kind, x)
    for _ in range(3):
        x.normal_()
        out.fill_(float("nan"))
        graph.replay()
        expected = exact(kind, x)
        assert (out.double() - expected).norm() <= 6e-3 * expected.norm()
