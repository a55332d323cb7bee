# SPDX-License-Identifier: Apache-2.0
"""Routing: the scores, the choice of groups and of experts, and the weights of a few tokens in one warp; and
the experts that every token goes to.

Experts stand in a tile of groups x size, both rounded up to powers of two, so that any number of either has
the same code. What does not exist is less than what may not be chosen, and that less than any score."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sizes import cdiv, next_power_of_2

_ELEMENTS = 512  # scores that a warp holds
_INFINITY = tl.constexpr(float("inf"))
_LEAST = tl.constexpr(-3.0e38)


@triton.jit(do_not_specialize=["tokens"])
def _route(
    logits_ptr, bias_ptr, weights_ptr, experts_ptr, tokens, stride, step, scale,
    EXPERTS: tl.constexpr, GROUPS: tl.constexpr, KEPT: tl.constexpr, TOP: tl.constexpr,
    SIGMOID: tl.constexpr, BIASED: tl.constexpr, RENORMALISE: tl.constexpr,
    T: tl.constexpr, G: tl.constexpr, S: tl.constexpr, K: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    SIZE: tl.constexpr = EXPERTS // GROUPS
    token = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    place = tl.arange(0, G * S)
    expert = place // S * SIZE + place % S
    exists = (place // S < GROUPS) & (place % S < SIZE)
    there = (token < tokens)[:, None] & exists[None, :]
    at = logits_ptr + token[:, None] * stride + expert[None, :] * step
    x = tl.load(at, there, other=-_INFINITY).to(tl.float32)
    if SIGMOID:
        scores = 1.0 / (1.0 + tl.exp(-x))
    else:
        scores = tl.exp(x - tl.max(x, 1)[:, None])
        scores /= tl.sum(scores, 1)[:, None]
    choice = scores
    if BIASED:
        choice += tl.load(bias_ptr + expert, exists, other=0.0)[None, :]
    choice = tl.where(choice == choice, choice, _INFINITY)  # NaN is the largest, as it is for torch
    choice = tl.where(exists[None, :], tl.maximum(choice, _LEAST), -_INFINITY)
    if KEPT < GROUPS:
        grouped = tl.reshape(choice, (T, G, S))
        worth = tl.max(grouped, 2)
        if BIASED:
            first = tl.argmax(grouped, 2)
            others = tl.where(tl.arange(0, S)[None, None, :] == first[:, :, None], -_INFINITY, grouped)
            worth += tl.max(others, 2)
        group = tl.arange(0, G)
        behind = worth[:, :, None] > worth[:, None, :]  # the first of the pair is better
        equal = worth[:, :, None] == worth[:, None, :]
        behind = behind | (equal & (group[:, None] < group[None, :])[None, :, :])
        better = tl.sum(behind.to(tl.int32), 1)
        choice = tl.reshape(tl.where((better < KEPT)[:, :, None], grouped, -_INFINITY), (T, G * S))
    which = tl.arange(0, K)
    weights = tl.zeros((T, K), tl.float32)
    chosen = tl.zeros((T, K), tl.int32)
    for i in range(TOP):
        best = tl.argmax(choice, 1)
        here = place[None, :] == best[:, None]
        weight = tl.sum(tl.where(here, scores, 0.0), 1)
        weights = tl.where(which[None, :] == i, weight[:, None], weights)
        chosen = tl.where(which[None, :] == i, (best // S * SIZE + best % S)[:, None], chosen)
        choice = tl.where(here, -_INFINITY, choice)
    if RENORMALISE:
        weights /= tl.maximum(tl.sum(weights, 1), 1e-20)[:, None]
    to = token[:, None] * TOP + which[None, :]
    written = (token < tokens)[:, None] & (which < TOP)[None, :]
    tl.store(weights_ptr + to, weights * scale, written)
    tl.store(experts_ptr + to, chosen, written)


def route(
    logits: Tensor,
    top_k: int,
    *,
    sigmoid: bool,
    renormalise: bool,
    scale: float,
    bias: Tensor | None,
    groups: int,
    kept_groups: int,
) -> tuple[Tensor, Tensor]:
    tokens, experts = logits.shape
    weights = torch.empty(tokens, top_k, dtype=torch.float32, device=logits.device)
    chosen = torch.empty(tokens, top_k, dtype=torch.int32, device=logits.device)
    if not tokens:
        return weights, chosen
    if kept_groups == groups:
        groups = kept_groups = 1
    g, s = next_power_of_2(groups), next_power_of_2(experts // groups)
    each = max(1, _ELEMENTS // (g * s))
    programs = cdiv(tokens, each)
    _route[(programs,)](
        logits, None if bias is None else bias.contiguous(), weights, chosen, tokens, logits.stride(0),
        logits.stride(1), scale, EXPERTS=experts, GROUPS=groups, KEPT=kept_groups, TOP=top_k,
        SIGMOID=sigmoid, BIASED=bias is not None, RENORMALISE=renormalise,
        T=each, G=g, S=s, K=next_power_of_2(top_k),
        num_warps=1 if g * s <= _ELEMENTS else 4, **overlapping(logits.device, programs),
    )  # fmt: skip
    return weights, chosen


@triton.jit(do_not_specialize=["tokens"])
def _append(
    weights_ptr, experts_ptr, share_ptr, more_weights_ptr, more_experts_ptr, tokens, first, stride,
    SHARED: tl.constexpr, TOP: tl.constexpr, COUNT: tl.constexpr, T: tl.constexpr, K: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    token = tl.program_id(0).to(tl.int64) * T + tl.arange(0, T)
    which = tl.arange(0, K)
    there = (token < tokens)[:, None]
    routed = there & (which < TOP)[None, :]
    at = token[:, None] * TOP + which[None, :]
    weights = tl.load(weights_ptr + at, routed, other=1.0)
    if SHARED:
        share = tl.load(share_ptr + token * stride, token < tokens, other=0.0).to(tl.float32)
        weights = tl.where(routed, weights, share[:, None])
    experts = tl.load(experts_ptr + at, routed, other=0)
    experts = tl.where(routed, experts, (first + which - TOP)[None, :].to(experts.dtype))
    to = token[:, None] * (TOP + COUNT) + which[None, :]
    written = there & (which < TOP + COUNT)[None, :]
    tl.store(more_weights_ptr + to, weights, written)
    tl.store(more_experts_ptr + to, experts, written)


def with_shared_experts(
    weights: Tensor, experts: Tensor, first: int, count: int, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    tokens, top_k = weights.shape
    more = weights.new_empty(tokens, top_k + count), experts.new_empty(tokens, top_k + count)
    if not tokens:
        return more
    width = next_power_of_2(top_k + count)
    each = max(1, _ELEMENTS // width)
    programs = cdiv(tokens, each)
    _append[(programs,)](
        weights.contiguous(), experts.contiguous(), weight, *more, tokens, first,
        0 if weight is None else weight.stride(0), SHARED=weight is not None, TOP=top_k, COUNT=count,
        T=each, K=width, num_warps=1, **overlapping(weights.device, programs),
    )  # fmt: skip
    return more
