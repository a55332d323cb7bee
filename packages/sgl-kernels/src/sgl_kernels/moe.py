# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: which experts a token goes to, and what they make of it.

Routing and arithmetic meet in two small tensors, the experts of each token and their weights, so that any
router goes with any experts. Shared experts, which every token goes to, are experts like others that a router
did not choose. Knows nothing of ranks: an expert that is elsewhere has a negative number here.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, INTEGERS, check, require

Activation = Literal["silu", "gelu", "gelu_tanh"]
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")


def route(
    logits: Tensor,
    top_k: int,
    *,
    scoring: Literal["softmax", "sigmoid"] = "softmax",
    renormalise: bool = True,
    scale: float = 1.0,
    bias: Tensor | None = None,
    groups: int = 1,
    kept_groups: int = 1,
) -> tuple[Tensor, Tensor]:
    """Router logits [T, E] -> weights [T, top_k] float32 and experts [T, top_k] int32, largest first.

    Scores are the softmax or the sigmoid of the logits (any float dtype, computed in float32). The experts of
    the top_k largest scores are chosen, where `bias` [E] float32 is added for the choice and not for the
    weight. With groups of E / groups consecutive experts, only those of the kept_groups best groups are
    chosen from: a group is as good as its best expert, or, with a bias, as the sum of its best two.
    renormalise: a token's weights are divided by their sum; scale: all are multiplied with it, afterwards.
    Which of equal experts is chosen is not defined.

    Raises ValueError on wrong shapes, dtypes or devices, or where there are fewer experts than asked for.
    Source: Jiang et al., "Mixtral of Experts", 2024; DeepSeek-AI, "DeepSeek-V2", 2024 (groups), and
    "DeepSeek-V3 Technical Report", 2024 (sigmoid, bias).
    """
    check("logits", logits, (None, None), dtypes=FLOATS)
    tokens, experts = logits.shape
    require(scoring in ("softmax", "sigmoid"), "scoring", "must be 'softmax' or 'sigmoid'")
    require(groups > 0 and experts % groups == 0, "groups", f"must divide the {experts} experts")
    require(0 < kept_groups <= groups, "kept_groups", f"must be between 1 and {groups}")
    available = experts // groups * kept_groups
    require(0 < top_k <= available, "top_k", f"must be between 1 and the {available} experts to choose from")
    if bias is not None:
        check("bias", bias, (experts,), like=logits, dtypes=(torch.float32,))
        require(groups == 1 or experts > groups, "groups", "must have two experts each, with a bias")
    if kernels := fast("route", logits.device):
        return kernels.route(
            logits, top_k, sigmoid=scoring == "sigmoid", renormalise=renormalise, scale=scale, bias=bias,
            groups=groups, kept_groups=kept_groups,
        )  # fmt: skip
    scores = logits.float().softmax(-1) if scoring == "softmax" else logits.float().sigmoid()
    choice = scores if bias is None else scores + bias
    if kept_groups < groups:
        grouped = choice.view(tokens, groups, experts // groups)
        worth = grouped.amax(-1) if bias is None else grouped.topk(2).values.sum(-1)
        chosen = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, worth.topk(kept_groups).indices, True)
        choice = torch.where(chosen[:, :, None], grouped, float("-inf")).flatten(1)
    indices = choice.topk(top_k).indices
    weights = scores.gather(1, indices)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-20)
    return weights * scale, indices.int()


def with_shared_experts(
    weights: Tensor, experts: Tensor, first: int, count: int, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """weights and experts [T, k] of a router -> [T, k + count]: each token goes to experts first … too.

    weight: [T] float32, that of the shared experts (of a gate, for example); 1 if it is None. One shared
    expert of width count x f is `count` experts of width f, with its columns dealt out to them in order.
    """
    check("weights", weights, (None, None), dtypes=(torch.float32,))
    check("experts", experts, weights.shape, like=weights, dtypes=INTEGERS)
    require(count > 0, "count", "must be positive")
    if weight is not None:
        check("weight", weight, weights.shape[:1], like=weights)
    if kernels := fast("route", weights.device):
        more: tuple[Tensor, Tensor] = kernels.with_shared_experts(weights, experts, first, count, weight)
        return more
    tokens = len(weights)
    ones = weights.new_ones(tokens, count) if weight is None else weight[:, None].expand(tokens, count)
    shared = torch.arange(first, first + count, dtype=experts.dtype, device=experts.device)
    return torch.cat([weights, ones], 1), torch.cat([experts, shared.expand(tokens, count)], 1)


def fused_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weights: Tensor,
    experts: Tensor,
    *,
    activation: Activation = "silu",
) -> Tensor:
    """The weighted sum of what each token's experts make of it: x [T, d] -> [T, d], a fresh tensor.

    gate_up [E, 2f, d], gate first, and down [E, d, f], of the dtype of x and contiguous; weights [T, k]
    float32 and experts [T, k] int32 or int64, as `route` gives them. Expert e makes of x
    `down[e] @ (activation(gate) * up)` with [gate | up] = gate_up[e] @ x; activation is silu, gelu or
    gelu_tanh. An expert that is negative, or E or more, adds nothing. x is float32, float16 or bfloat16; sums
    are float32, and what passes from one product to the next is of the dtype of x.

    The host does not wait for the device. Raises ValueError on wrong shapes, dtypes, devices or strides.
    Source: Shazeer et al., "Outrageously Large Neural Networks", 2017; Fedus et al., "Switch Transformers",
    2021 (a token goes to few experts); Gale et al., "MegaBlocks", 2022 (no token is dropped, none padded to
    the fullest expert).
    """
    check("x", x, (None, None), dtypes=FLOATS, rows=True)
    tokens, width = x.shape
    check("gate_up", gate_up, (None, None, width), like=x, contiguous=True)
    number, inner = len(gate_up), gate_up.shape[1] // 2
    require(gate_up.shape[1] % 2 == 0, "gate_up", f"must have an even number of rows: {list(gate_up.shape)}")
    check("down", down, (number, width, inner), like=x, contiguous=True)
    check("weights", weights, (tokens, None), like=x, dtypes=(torch.float32,))
    check("experts", experts, tuple(weights.shape), like=x, dtypes=INTEGERS)
    require(activation in ACTIVATIONS, "activation", f"must be one of {', '.join(ACTIVATIONS)}")
    if torch.compiler.is_compiling():
        return _opaque(x, gate_up, down, weights, experts, activation)
    return _fused_experts(x, gate_up, down, weights, experts, activation)


def _fused_experts(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: Activation
) -> Tensor:
    if kernels := fast("moe", x.device):
        return kernels.fused_experts(x, gate_up, down, weights, experts, activation)
    return reference(x, gate_up, down, weights, experts, activation)


@torch.library.custom_op("sgl_kernels::fused_experts", mutates_args=())
def _opaque(
    x: torch.Tensor,
    gate_up: torch.Tensor,
    down: torch.Tensor,
    weights: torch.Tensor,
    experts: torch.Tensor,
    activation: str,
) -> torch.Tensor:
    """For torch.compile, which cannot follow how many tokens an expert has."""
    return _fused_experts(x, gate_up, down, weights, experts, activation)  # type: ignore[arg-type]


@_opaque.register_fake
def _(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: str) -> Tensor:
    return x.new_empty(x.shape)


def reference(
    x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor, activation: Activation
) -> Tensor:
    """`fused_experts` in torch, one expert after another; arguments are not checked."""
    out = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    if x.device.type != "cpu":
        # Who has which tokens is known to the device alone: every expert sees all of them, no wait for it.
        for e in range(len(gate_up)):
            share = torch.where(experts == e, weights, 0.0).sum(1, keepdim=True)
            out += _expert(x, gate_up[e], down[e], activation).float() * share
        return out.to(x.dtype)
    flat = experts.flatten()
    for e in flat.unique().tolist():
        if 0 <= e < len(gate_up):
            places = (flat == e).nonzero().squeeze(1)
            rows = places // experts.shape[1]
            made = _expert(x[rows], gate_up[e], down[e], activation).float()
            out.index_add_(0, rows, made.mul_(weights.flatten()[places, None]))
    return out.to(x.dtype)


def _expert(x: Tensor, gate_up: Tensor, down: Tensor, activation: Activation) -> Tensor:
    gate, up = F.linear(x, gate_up).chunk(2, -1)
    if activation == "silu":
        active = F.silu(gate)
    else:
        active = F.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none")
    return F.linear(active.mul_(up), down)
