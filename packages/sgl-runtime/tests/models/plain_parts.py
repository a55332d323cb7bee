# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the models in `plain.py` and `plain_experts.py`: plain tensor operations on whole
sequences, in whatever dtype the weights have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

Config: TypeAlias = Mapping[str, Any]
Weights: TypeAlias = Mapping[str, Tensor]
Shapes: TypeAlias = dict[str, tuple[int, ...]]


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def rotate_halves(x: Tensor, base: float) -> Tensor:
    """x [T, heads, d]: dimension i of a head is the real and i + d/2 the imaginary part of one number."""
    return torch.cat(_turn(*x.chunk(2, dim=-1), base), dim=-1)


def rotate_neighbours(x: Tensor, base: float, rotated: int) -> Tensor:
    """x [T, heads, d]: of the first `rotated` dimensions, 2i and 2i + 1 are one number; the rest stays."""
    head, rest = x[..., :rotated], x[..., rotated:]
    return torch.cat([torch.stack(_turn(head[..., 0::2], head[..., 1::2], base), -1).flatten(-2), rest], -1)


def _turn(real: Tensor, imaginary: Tensor, base: float) -> tuple[Tensor, Tensor]:
    """The number at position p turned by p * base ** (-2i/d)."""
    pairs = real.shape[-1]
    turns = torch.tensor([base ** (-i / pairs) for i in range(pairs)])
    angles = torch.arange(len(real))[:, None, None] * turns
    cos, sin = angles.cos(), angles.sin()
    return real * cos - imaginary * sin, real * sin + imaginary * cos


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, scale: float | None = None, cap: float | None = None
) -> Tensor:
    """q [T, heads, d], k and v [T, KV heads, d]: causal attention -> [T, heads * d].

    scale: of the scores, instead of d ** -0.5. cap: scores become cap * tanh(scores / cap).
    """
    length, heads, width = q.shape
    group = heads // k.shape[1]
    outputs = []
    for head in range(heads):
        scores = q[:, head] @ k[:, head // group].T * (width**-0.5 if scale is None else scale)
        if cap is not None:
            scores = cap * (scores / cap).tanh()
        future = torch.ones(length, length).triu(1).bool()
        outputs.append(scores.masked_fill(future, float("-inf")).softmax(-1) @ v[:, head // group])
    return torch.cat(outputs, dim=-1)
