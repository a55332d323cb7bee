# SPDX-License-Identifier: Apache-2.0
"""Experts at the shapes of Mixtral 8x7B and Qwen3-30B-A3B, for few tokens and for many.

The floor: the weights of the experts that have a token are read once, or the products at the rate of a matrix
product. Nothing beside it: torch's way asks the host which experts have tokens, which no CUDA graph can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels import fused_experts, route
from sgl_kernels.bench.harness import Case, Prepared, relative_error

_SHAPES = {"Mixtral-8x7B": (8, 2, 4096, 14336), "Qwen3-30B-A3B": (128, 8, 2048, 768)}

_ROUTERS = {"softmax": (128, 8, False), "sigmoid, 4 of 8 groups, bias": (256, 8, True)}  # experts, top_k

_TIED, _TIES = 1e-4, 1e-3  # a larger difference is another choice; the largest share of such tokens


def cases() -> Iterator[Case]:
    for model, (number, k, width, inner) in _SHAPES.items():
        for tokens in (1, 16, 64, 512, 8192):
            touched = min(number, tokens * k)  # the router spreads its choices, see `_prepare`
            size = f"{model}, {tokens} tokens"
            yield Case(
                "fused_experts",
                size,
                _prepare(tokens, number, k, width, inner),
                bytes=2 * (touched * 3 * width * inner + 2 * tokens * width),
                flops=6 * tokens * k * width * inner,
                goal=0.6,
            )
    for tokens in (1, 64, 8192):
        for name, (number, k, grouped) in _ROUTERS.items():
            yield Case(
                "route",
                f"{name}, {tokens} x {number}",
                _routing(tokens, number, k, grouped),
                bytes=tokens * (2 * number + 8 * k),
                limit=1e-5,
            )


def _prepare(tokens: int, number: int, k: int, width: int, inner: int) -> Callable[[], Prepared]:
    def prepare() -> Prepared:
        x = torch.randn(tokens, width, device="cuda").bfloat16()
        gate_up = torch.randn(number, 2 * inner, width, device="cuda", dtype=torch.bfloat16) / width**0.5
        down = torch.randn(number, width, inner, device="cuda", dtype=torch.bfloat16) / inner**0.5
        # Random, with the first choices dealt out so that as many experts have a token as can have one.
        logits = torch.randn(tokens, number, device="cuda")
        first = torch.arange(tokens * k, device="cuda").view(tokens, k) % number
        dealt = (torch.arange(tokens, device="cuda") * k < number).float() * 8
        logits.scatter_add_(1, first, dealt[:, None].expand(-1, k))
        weights, experts = route(logits, k)

        def check() -> float:
            return relative_error(fused_experts(x, gate_up, down, weights, experts), _exact())

        def _exact() -> Tensor:
            some = slice(0, 64)  # the exact sum of a few; the rest is compared with torch's
            out = _one_by_one(x, gate_up, down, weights, experts).double()
            out[some] = _one_by_one(x[some].double(), gate_up, down, weights[some].double(), experts[some])
            return out

        return Prepared(lambda: fused_experts(x, gate_up, down, weights, experts), {}, check)

    return prepare


def _routing(tokens: int, number: int, k: int, grouped: bool) -> Callable[[], Prepared]:
    def prepare() -> Prepared:
        logits = torch.randn(tokens, number, device="cuda").bfloat16()
        options: dict[str, Any] = {}
        if grouped:
            bias = torch.randn(number, device="cuda") / 16
            options = {"scoring": "sigmoid", "bias": bias, "groups": 8, "kept_groups": 4, "scale": 2.5}

        def check() -> float:
            # Sorted, since equal logits are many in bfloat16 and which of them is chosen is not defined.
            on_host = {name: value.cpu() if name == "bias" else value for name, value in options.items()}
            weights, expected = (
                each.sort(-1).values.cpu()
                for each in (route(logits, k, **options)[0], route(logits.cpu(), k, **on_host)[0])
            )
            # Where two are nearly tied, another rounding of the sigmoid may choose the other one.
            alike = (weights - expected).abs().amax(-1) < _TIED
            if alike.double().mean() < 1 - _TIES:
                return float("inf")
            return relative_error(weights[alike], expected[alike])

        return Prepared(lambda: route(logits, k, **options), {}, check)

    return prepare


def _one_by_one(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Tensor:
    out = torch.zeros(x.shape, dtype=weights.dtype, device=x.device)
    for e in experts.unique().tolist():
        rows, which = (experts == e).nonzero(as_tuple=True)
        gate, up = F.linear(x[rows], gate_up[e].to(x.dtype)).chunk(2, -1)
        made = F.linear(F.silu(gate) * up, down[e].to(x.dtype)).to(weights.dtype)
        out.index_add_(0, rows, made * weights[rows, which, None])
    return out
