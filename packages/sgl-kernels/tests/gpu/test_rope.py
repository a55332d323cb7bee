# SPDX-License-Identifier: Apache-2.0
"""Rotation on a GPU against float64 and the CPU, with norm and cache, and in a CUDA graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgl_kernels import apply_rope, rope_and_store_kv, rope_frequencies, rope_table, rotate

pytestmark = pytest.mark.gpu

ERROR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
LENGTH = 1000
FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def tables(
    rotary: int, interleaved: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    frequencies, _ = rope_frequencies(rotary, 10000.0, None, LENGTH)
    cos, sin = rope_table(frequencies, 1.0, LENGTH, dtype=dtype, interleaved=interleaved)
    return cos.cuda(), sin.cuda()


def turned(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """x [T, h, d] in float64; cos and sin of these tokens."""
    x, cos, sin = x.double(), cos.double()[:, None], sin.double()[:, None]
    part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    if interleaved:
        partner = part.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    else:
        partner = part.roll(part.shape[-1] // 2, -1)
    return torch.cat((part * cos + partner * sin, rest), -1)


@pytest.mark.parametrize(
    ("q_heads", "k_heads", "dim", "rotary", "interleaved", "dtype"),
    [
        (32, 8, 128, 128, False, torch.bfloat16),
        (32, 8, 128, 128, True, torch.float16),
        (9, 3, 80, 32, False, torch.float32),
        (1, 1, 5, 2, True, torch.float32),
        (128, 1, 64, 64, True, torch.bfloat16),
        (12, 12, 96, 96, False, torch.float16),
    ],
)
def test_rotation(
    q_heads: int, k_heads: int, dim: int, rotary: int, interleaved: bool, dtype: torch.dtype
) -> None:
    for tokens in (0, 1, 33, 4000) if q_heads == 32 else (0, 1, 33):  # few heads, and many
        cos, sin = tables(rotary, interleaved)
        positions = torch.randint(LENGTH, (tokens,), device="cuda")
        qkv = torch.randn(tokens, q_heads + 2 * k_heads, dim, device="cuda").to(dtype)
        before = qkv.clone()
        q, k = qkv[:, :q_heads], qkv[:, q_heads : q_heads + k_heads]
        apply_rope(q, k, cos, sin, positions=positions, interleaved=interleaved)
        expected = turned(before[:, :-k_heads], cos[positions], sin[positions], interleaved)
        assert (qkv[:, :-k_heads].double() - expected).norm() <= ERROR[dtype] * expected.norm()
        assert torch.equal(qkv[:, -k_heads:], before[:, -k_heads:])
        assert torch.equal(qkv[..., rotary:], before[..., rotary:])
        rows = before[:, :q_heads].clone()
        rotate(rows, cos[positions], sin[positions], interleaved=interleaved)
        assert torch.equal(rows, q)


@pytest.mark.parametrize(
    ("dtype", "dim", "rotary", "interleaved", "norm", "cached"),
    [
        (torch.bfloat16, 128, 128, False, "", None),
        (torch.bfloat16, 128, 128, False, "rms", FP8[0]),
        (torch.bfloat16, 80, 32, True, "", FP8[0]),
        (torch.float16, 96, 64, True, "rms", FP8[1]),
        (torch.float16, 80, 32, False, "gemma", None),
        (torch.float32, 96, 64, False, "rms", None),
    ],
)
def test_up_to_the_cache(
    dtype: torch.dtype, dim: int, rotary: int, interleaved: bool, norm: str, cached: torch.dtype | None
) -> None:
    tokens, slots = 50, torch.randperm(300, device="cuda")[:50] - 5
    cos, sin = tables(rotary, interleaved)
    positions = torch.randint(LENGTH, (tokens,), device="cuda")
    qkv = torch.randn(tokens, 20, dim, device="cuda").to(dtype)
    weights = torch.randn(2, dim, device="cuda").to(dtype)
    caches = [torch.zeros(300, 4, dim, device="cuda").to(cached or dtype) for _ in range(2)]
    options: dict[str, Any] = {"interleaved": interleaved, "gemma": norm == "gemma", "eps": 1e-5}
    options |= {"k_scale": 0.3, "v_scale": 0.05} if cached else {}
    before, zeros = qkv.clone(), [cache.cpu() for cache in caches]

    def run(qkv: Tensor, weights: Tensor, *rest: Tensor, positions: Tensor) -> None:
        both = {"q_weight": weights[0], "k_weight": weights[1]} if norm else {}
        parts = qkv[:, :12], qkv[:, 12:16], qkv[:, 16:]
        rope_and_store_kv(*parts, *rest, positions=positions, **both, **options)

    run(qkv, weights, cos, sin, *caches, slots, positions=positions)
    x = before[:, :16].double()
    if norm:
        weight = weights.double() + (norm == "gemma")
        x = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
        x = torch.cat((x[:, :12] * weight[0], x[:, 12:] * weight[1]), 1)
    x = turned(x, cos[positions], sin[positions], interleaved)
    assert (qkv[:, :12].double() - x[:, :12]).norm() <= ERROR[dtype] * x[:, :12].norm()
    assert torch.equal(qkv[:, 16:], before[:, 16:])
    there = slots >= 0
    keys = caches[0][slots[there]].double() * options.get("k_scale", 1.0)
    limit = {None: ERROR[dtype], FP8[0]: 4e-2, FP8[1]: 8e-2}[cached]
    assert (keys - x[there, 12:]).norm() <= limit * x[there, 12:].norm()
    oracle = before.cpu()
    run(oracle, weights.cpu(), cos.cpu(), sin.cpu(), *zeros, slots.cpu(), positions=positions.cpu())
    assert torch.equal(caches[1].cpu().float(), zeros[1].float())
    queries, expected = qkv[:, :12].cpu().double(), oracle[:, :12].double()
    assert (queries - expected).norm() <= 3 * ERROR[dtype] * expected.norm()
    mine, theirs = caches[0].cpu().double(), zeros[0].double()
    assert (mine - theirs).norm() <= (limit if cached else 3 * ERROR[dtype]) * theirs.norm()


def test_padding_and_what_lies_outside() -> None:
    cos, sin = tables(64)
    q, k, v = torch.randn(3, 4, 2, 64, device="cuda")
    before, memory = q.clone(), torch.zeros(2, 5, 2, 64, device="cuda")
    positions = torch.tensor([-1, LENGTH, 2**40, 7], device="cuda")
    slots = torch.tensor([-1, 3, 2**40, 2], device="cuda")
    rope_and_store_kv(q, k, v, cos, sin, memory[0, :3], memory[1, :3], slots, positions=positions)
    assert torch.equal(q[:3], before[:3])
    assert not torch.equal(q[3], before[3])
    assert torch.equal(memory[1, 2], v[3])
    assert not memory[:, [0, 1, 3, 4]].any()


def test_in_a_graph() -> None:
    cos, sin = tables(128, dtype=torch.bfloat16)
    qkv = torch.randn(7, 48, 128, device="cuda").bfloat16()
    q, k, v = qkv[:, :32], qkv[:, 32:40], qkv[:, 40:]
    caches = [torch.zeros(64, 8, 128, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    positions, slots = torch.zeros(7, device="cuda").long(), torch.arange(7, device="cuda")
    rope_and_store_kv(q, k, v, cos, sin, *caches, slots, positions=positions)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        rope_and_store_kv(q, k, v, cos, sin, *caches, slots, positions=positions)
    for _ in range(3):
        qkv.normal_()
        before = qkv.clone()
        positions.random_(LENGTH)
        slots.copy_(torch.randperm(64, device="cuda")[:7])
        graph.replay()
        expected = turned(before[:, :40], cos[positions], sin[positions], False)
        assert (q.double() - expected[:, :32]).norm() <= 6e-3 * expected.norm()
        assert (caches[0][slots].double() - expected[:, 32:]).norm() <= 6e-3 * expected.norm()
        assert torch.equal(caches[1][slots], v)
