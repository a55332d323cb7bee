# SPDX-License-Identifier: Apache-2.0
"""Rotary embedding against transformers (neox), complex multiplication (interleaved), and its own steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from sgl_kernels import apply_rope, rope, rope_and_store_kv, rope_frequencies, rope_table, rotate, store_kv


def tables(rotary_dim: int, positions: Tensor, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    frequencies, _ = rope_frequencies(rotary_dim, 10000.0, None, 4096)
    cos, sin = rope_table(frequencies, 1.5, 4096, interleaved=interleaved)
    assert cos.shape == sin.shape == (4096, rotary_dim)
    return cos[positions], sin[positions]


@pytest.mark.parametrize("tokens", [1, 7])
def test_neox_is_that_of_transformers(tokens: int) -> None:
    positions = torch.randint(4096, (tokens,))
    q, k = torch.randn(tokens, 6, 64), torch.randn(tokens, 2, 64)
    frequencies, _ = rope_frequencies(64, 10000.0, None, 4096)
    angles = torch.outer(positions.float(), frequencies)
    angles = torch.cat((angles, angles), -1)[None]
    their_q, their_k = apply_rotary_pos_emb(
        q.transpose(0, 1)[None], k.transpose(0, 1)[None], angles.cos() * 1.5, angles.sin() * 1.5
    )
    apply_rope(q, k, *tables(64, positions))
    torch.testing.assert_close(q, their_q[0].transpose(0, 1))
    torch.testing.assert_close(k, their_k[0].transpose(0, 1))


@pytest.mark.parametrize("rotary_dim", [64, 32])
@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_is_complex_multiplication(rotary_dim: int, interleaved: bool) -> None:
    positions = torch.tensor([0, 5, 4095])
    x = torch.randn(3, 4, 64)
    angles = positions[:, None].double() * torch.from_numpy(
        10000.0 ** -(np.arange(0, rotary_dim, 2) / rotary_dim)
    )
    turned = x[..., :rotary_dim].double()
    half = rotary_dim // 2
    pairs = turned.view(3, 4, half, 2) if interleaved else turned.view(3, 4, 2, half).transpose(-1, -2)
    product = (
        torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.full_like(angles, 1.5), angles)[:, None]
    )
    pairs = torch.view_as_real(product)
    turned = pairs.flatten(-2) if interleaved else pairs.transpose(-1, -2).flatten(-2)
    before = x.clone()
    rotate(x, *tables(rotary_dim, positions, interleaved), interleaved=interleaved)
    torch.testing.assert_close(x[..., :rotary_dim].double(), turned, rtol=1e-3, atol=1e-3)
    assert torch.equal(x[..., rotary_dim:], before[..., rotary_dim:])


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_views_of_one_buffer_are_rotated_together(
    tokens: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cos, sin = tables(64, torch.arange(tokens))
    buffer = torch.randn(tokens, 15 * 64).to(dtype)
    apart = buffer.view(tokens, 15, 64).clone()
    rotate(apart[:, :9], cos, sin)
    rotate(apart[:, 9:12], cos, sin)
    shapes = spy_on_rotate(monkeypatch)
    by_heads, by_columns = buffer.clone(), buffer.clone()
    heads = by_heads.view(tokens, 15, 64)
    apply_rope(heads[:, :9], heads[:, 9:12], cos, sin)
    q, k = by_columns[:, :576], by_columns[:, 576:768]
    apply_rope(q.view(tokens, 9, 64), k.view(tokens, 3, 64), cos, sin)
    for rotated in (by_heads, by_columns):
        assert torch.equal(rotated.view(tokens, 15, 64), apart)
    narrow = torch.randn(tokens, 12, 70, dtype=dtype)
    apply_rope(narrow[:, :9, :64], narrow[:, 9:, :64], cos, sin)
    assert shapes == [(tokens, 12, 64)] * 3


def test_neighbours_that_are_not_one_buffer_are_rotated_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = spy_on_rotate(monkeypatch)
    cos, sin = tables(8, torch.arange(2))
    block = torch.randn(80)
    heads = torch.randn(2, 6, 8)
    apply_rope(block[:48].view(2, 3, 8), block[48:64].view(2, 1, 8), cos, sin)  # k begins where q ends
    apply_rope(heads[:, :3], heads[:, 4:], cos, sin)  # a head between them
    apply_rope(heads[:, :2], heads[:, 2::2], cos, sin)  # every second head
    wider = block.as_strided((2, 1, 8), (40, 8, 1), 24)
    apply_rope(
        block.as_strided((2, 3, 8), (32, 8, 1), 0), wider, cos, sin
    )  # only the first token's heads meet
    assert shapes == [(2, 3, 8), (2, 1, 8), (2, 3, 8), (2, 2, 8), (2, 2, 8), (2, 2, 8), (2, 3, 8), (2, 1, 8)]


def spy_on_rotate(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    shapes = []

    turn = rope._turn

    def spy(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
        shapes.append(x.shape)
        turn(x, cos, sin, interleaved)

    monkeypatch.setattr(rope, "_turn", spy)
    return shapes


def test_tables_in_float32_round_once() -> None:
    positions = torch.arange(100)
    cos, sin = tables(64, positions)
    x = torch.randn(100, 3, 64).bfloat16()
    first, second = x.double().chunk(2, -1)
    half_cos, half_sin = cos[:, None, :32].double(), sin[:, None, 32:].double()
    exact = torch.cat((first * half_cos - second * half_sin, second * half_cos + first * half_sin), -1)
    rotate(x, cos, sin)
    torch.testing.assert_close(x, exact.bfloat16(), rtol=2**-8, atol=0)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_of_the_table_are_looked_up(index: torch.dtype) -> None:
    positions = torch.tensor([7, -1, 0, 4095], dtype=index)
    frequencies, _ = rope_frequencies(16, 10000.0, None, 4096)
    cos, sin = rope_table(frequencies, 1.0, 4096)
    q, k = torch.randn(4, 3, 24), torch.randn(4, 1, 24)
    rows = positions.clamp(min=0).long()
    whole = q.clone(), k.clone()
    apply_rope(*whole, cos, sin, positions=positions)
    single = q.clone()
    rotate(single, cos, sin, positions=positions)
    before = q.clone(), k.clone()
    apply_rope(q, k, cos[rows], sin[rows])
    q[1], k[1] = before[0][1], before[1][1]
    assert torch.equal(whole[0], q)
    assert torch.equal(whole[1], k)
    assert torch.equal(single, q)


def test_a_position_beyond_the_table_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        rotate(torch.zeros(2, 1, 8), torch.ones(3, 8), torch.ones(3, 8), positions=torch.tensor([3, 0]))


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_rope_and_store_kv_is_that_of_transformers(tokens: int, normed: bool) -> None:
    """Qwen 3: the norm of each head, the rotation, the cache."""
    positions, slots = torch.randint(4096, (tokens,)), torch.randperm(9)[:tokens]
    qkv = torch.randn(tokens, 6 + 2 + 2, 64)
    q, k, v = qkv[:, :6], qkv[:, 6:8], qkv[:, 8:]
    weights = torch.randn(2, 64)
    frequencies, _ = rope_frequencies(64, 10000.0, None, 4096)
    angles = torch.outer(positions.float(), frequencies)
    angles = torch.cat((angles, angles), -1)[None]
    heads = [q.clone(), k.clone()]
    if normed:
        for i in range(2):
            norm = Qwen3RMSNorm(64, 1e-5)
            norm.weight.data = weights[i]
            heads[i] = norm(heads[i]).detach()
    their_q, their_k = apply_rotary_pos_emb(
        *(x.transpose(0, 1)[None] for x in heads), angles.cos(), angles.sin()
    )
    k_cache, v_cache = torch.zeros(9, 2, 64), torch.zeros(9, 2, 64)
    more = {"q_weight": weights[0], "k_weight": weights[1], "eps": 1e-5} if normed else {}
    rope_and_store_kv(
        q, k, v, *rope_table(frequencies, 1.0, 4096), k_cache, v_cache, slots, positions=positions, **more
    )
    torch.testing.assert_close(q, their_q[0].transpose(0, 1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(k_cache[slots], their_k[0].transpose(0, 1), rtol=1e-4, atol=1e-4)
    assert torch.equal(v_cache[slots], v)


def test_gemma_norms_and_float8_caches() -> None:
    q, k, v = torch.randn(3, 4, 16), torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    cos, sin = tables(8, torch.arange(3))
    weights, slots = torch.randn(2, 16), torch.tensor([2, -1, 0])
    caches = [torch.zeros(4, 2, 16).to(torch.float8_e4m3fn) for _ in range(4)]
    steps = [
        x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + w)
        for x, w in zip((q, k), weights, strict=True)
    ]
    apply_rope(*steps, cos, sin)
    store_kv(steps[1], v, *caches[:2], slots, k_scale=0.1, v_scale=0.2)
    scales = {"k_scale": 0.1, "v_scale": 0.2}
    rope_and_store_kv(
        q, k, v, cos, sin, *caches[2:], slots, q_weight=weights[0], k_weight=weights[1], gemma=True, **scales
    )
    torch.testing.assert_close(q, steps[0])
    for theirs, ours in zip(caches[:2], caches[2:], strict=True):
        torch.testing.assert_close(ours.float(), theirs.float(), rtol=0.13, atol=1e-6)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q": torch.zeros(2, 24)}, "q: must be of shape"),
        ({"q": torch.zeros(2, 3, 8, dtype=torch.float64)}, "q: must be float32"),
        ({"k": torch.zeros(2, 3, 9)}, "k: must be of shape"),
        ({"k": torch.zeros(2, 8, 3).mT}, "k: elements of the last dimension"),
        ({"cos": torch.zeros(3, 8)}, "cos: must be of shape"),
        ({"cos": torch.zeros(2, 8).half()}, "cos: must be float32"),
        ({"cos": torch.zeros(2, 10), "sin": torch.zeros(2, 10)}, "cos: its width must be even and at most"),
        ({"cos": torch.zeros(2, 7), "sin": torch.zeros(2, 7)}, "cos: its width must be even and at most"),
        ({"cos": torch.zeros(2, 16)[:, ::2]}, "cos: must be contiguous"),
        ({"sin": torch.zeros(2, 6)}, "sin: must be of shape"),
        ({"positions": torch.zeros(2)}, "positions: must be int32 or int64"),
        ({"positions": torch.zeros(3).long()}, "positions: must be of shape"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    arguments = {"q": torch.zeros(2, 3, 8), "k": torch.zeros(2, 3, 8)}
    arguments |= {"cos": torch.zeros(2, 8), "sin": torch.zeros(2, 8)} | changed
    with pytest.raises(ValueError, match=message):
        apply_rope(**arguments)
    caches = {"k_cache": torch.zeros(4, 3, 8), "v_cache": torch.zeros(4, 3, 8)}
    with pytest.raises(ValueError, match=message):
        rope_and_store_kv(**arguments, **caches, v=torch.zeros(2, 3, 8), slots=torch.arange(2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q_weight": torch.zeros(8)}, "k_weight: must be given if q_weight is"),
        ({"q_weight": torch.zeros(8), "k_weight": torch.zeros(6)}, "k_weight: must be of shape"),
        ({"gemma": True}, "gemma: is about the weights of norms"),
        ({"slots": torch.arange(3)}, "slots: must be of shape"),
        ({"v_scale": 3.0}, "v_scale: must be 1.0"),
    ],
)
def test_what_the_fused_step_refuses(changed: dict[str, Any], message: str) -> None:
    arguments = {name: torch.zeros(2, 3, 8) for name in ("q", "k", "v", "k_cache", "v_cache")}
    arguments |= {"cos": torch.zeros(2, 8), "sin": torch.zeros(2, 8), "slots": torch.arange(2)}
    with pytest.raises(ValueError, match=message):
        rope_and_store_kv(**(arguments | changed))
