# SPDX-License-Identifier: Apache-2.0
"""Experts on a GPU against float64, and in a CUDA graph whose tokens go elsewhere in every replay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels import fused_experts, route, with_shared_experts

pytestmark = pytest.mark.gpu

ERROR = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


def exact(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for e in range(len(gate_up)):
        gate, up = (x.double() @ gate_up[e].double().T).chunk(2, -1)
        share = (weights * (experts == e)).sum(1, keepdim=True).double()
        out += share * ((F.silu(gate) * up) @ down[e].double().T)
    return out


@pytest.mark.parametrize(
    ("dtype", "tokens", "number", "k", "width", "inner"),
    [
        (torch.bfloat16, 3, 8, 2, 1024, 768),
        (torch.bfloat16, 300, 8, 4, 520, 200),
        (torch.bfloat16, 2000, 8, 2, 1024, 768),
        (torch.float32, 50, 5, 3, 96, 70),
    ],
)
def test_against_float64(
    dtype: torch.dtype, tokens: int, number: int, k: int, width: int, inner: int
) -> None:
    x = torch.randn(tokens, width + 8, device="cuda").to(dtype)[:, :width]
    gate_up = (torch.randn(number, 2 * inner, width, device="cuda") / width**0.5).to(dtype)
    down = (torch.randn(number, width, inner, device="cuda") / inner**0.5).to(dtype)
    weights, experts = route(torch.randn(tokens, number, device="cuda"), k)
    experts[::5] = -1
    expected = exact(x, gate_up, down, weights, experts)
    ours = fused_experts(x, gate_up, down, weights, experts)
    assert (ours.double() - expected).norm() <= ERROR[dtype] * expected.norm()


def test_in_a_graph() -> None:
    x = torch.randn(40, 256, device="cuda").bfloat16()
    gate_up = torch.randn(8, 512, 256, device="cuda").bfloat16() / 16
    down = torch.randn(8, 256, 256, device="cuda").bfloat16() / 16
    logits = torch.randn(40, 8, device="cuda")

    def block() -> Tensor:
        return fused_experts(x, gate_up, down, *route(logits, 2))

    block()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = block()
    for skew in (0.0, 100.0, -100.0):
        logits.copy_(torch.randn_like(logits))
        logits[:, 3] += skew
        x.copy_(torch.randn_like(x))
        out.fill_(float("nan"))
        graph.replay()
        expected = exact(x, gate_up, down, *route(logits, 2))
        assert (out.double() - expected).norm() <= 8e-3 * expected.norm()


@pytest.mark.parametrize("experts", [8, 128, 160, 256])
@pytest.mark.parametrize("biased", [False, True])
def test_the_router(experts: int, biased: bool) -> None:
    logits = torch.randn(333, experts, device="cuda").bfloat16()
    logits += torch.arange(experts, device="cuda") / 4096  # few are equal
    for scoring in ("softmax", "sigmoid"):
        options: dict[str, Any] = {"scoring": scoring, "scale": 2.5, "groups": 8, "kept_groups": 3}
        if experts == 8:
            options |= {"groups": 1, "kept_groups": 1}
        bias = torch.randn(experts) if biased else None
        weights, chosen = route(logits, 3, bias=None if bias is None else bias.cuda(), **options)
        expected = route(logits.cpu(), 3, bias=bias, **options)
        # Which of equal experts is chosen is not defined; their weights are the same without a bias.
        assert (chosen.cpu() != expected[1]).float().mean() < 0.05
        same = (chosen.cpu() == expected[1]).all(1)
        torch.testing.assert_close(weights.cpu()[same], expected[0][same], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tokens", [1, 300])
@pytest.mark.parametrize("gated", [False, True])
def test_shared_experts_stand_behind_the_chosen_ones(tokens: int, gated: bool) -> None:
    weights, experts = route(torch.randn(tokens, 64, device="cuda"), 6)
    gate = torch.rand(tokens, device="cuda") if gated else None
    more_weights, more_experts = with_shared_experts(weights, experts, 64, 2, gate)
    assert torch.equal(more_weights[:, :6], weights) and torch.equal(more_experts[:, :6], experts)
    assert (more_experts[:, 6:] == torch.tensor([64, 65], device="cuda")).all()
    assert (more_weights[:, 6:] == (1.0 if gate is None else gate[:, None])).all()
