# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of rotary embedding, interpreted, against the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgl_kernels
from sgl_kernels._triton import rope
from sgl_kernels._triton.rope import Tile

LENGTH = 11
TOLERANCE = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3.2e-2}
DTYPES = st.sampled_from(list(TOLERANCE))
HEADS = st.tuples(st.integers(1, 5), st.integers(1, 3))
WIDTHS = st.sampled_from([(8, 8), (8, 4), (20, 6), (64, 64), (40, 40), (5, 2), (16, 0)])  # (dim, rotary_dim)


def tables(rotary: int, interleaved: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    frequencies, _ = sgl_kernels.rope_frequencies(rotary, 100.0, None, LENGTH)
    return sgl_kernels.rope_table(frequencies, 1.25, LENGTH, dtype=dtype, interleaved=interleaved)


def draw_positions(tokens: int) -> Tensor:
    return torch.randint(-1, LENGTH, (tokens,))


def close(ours: Tensor, reference: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(ours, reference, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 4), HEADS, WIDTHS, DTYPES, st.booleans(), st.booleans(), st.booleans())
def test_any_shape(
    tokens: int,
    heads: tuple[int, int],
    widths: tuple[int, int],
    dtype: torch.dtype,
    interleaved: bool,
    looked_up: bool,
    exact_table: bool,
) -> None:
    dim, rotary = widths
    cos, sin = tables(rotary, interleaved, torch.float32 if exact_table else dtype)
    positions = draw_positions(tokens)
    if not looked_up:
        cos, sin, positions = cos[positions], sin[positions], None
    qkv = torch.randn(tokens, sum(heads) + 1, dim + 3).to(dtype)
    theirs = qkv.clone()
    views = [(x[:, : heads[0], :dim], x[:, heads[0] : -1, :dim]) for x in (qkv, theirs)]
    tile = Tile(2, 4)
    rope.apply_rope(*views[0], cos, sin, positions=positions, interleaved=interleaved, tile=tile)
    sgl_kernels.apply_rope(*views[1], cos, sin, positions=positions, interleaved=interleaved)
    close(qkv, theirs, dtype)
    rope.rotate(views[0][0], cos, sin, positions=positions, interleaved=interleaved)
    sgl_kernels.rotate(views[1][0], cos, sin, positions=positions, interleaved=interleaved)
    close(qkv, theirs, dtype)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(0, 4),
    HEADS,
    WIDTHS,
    st.sampled_from([0, 3, 16]),
    DTYPES,
    st.sampled_from(["", "rms", "gemma"]),
    st.booleans(),
    st.booleans(),
)
def test_up_to_the_cache(
    tokens: int,
    heads: tuple[int, int],
    widths: tuple[int, int],
    v_dim: int,
    dtype: torch.dtype,
    norm: str,
    interleaved: bool,
    fp8: bool,
) -> None:
    dim, rotary = widths
    cos, sin = tables(rotary, interleaved, torch.float32)
    q, k = torch.randn(tokens, heads[0], dim).to(dtype), torch.randn(tokens, heads[1], dim).to(dtype)
    v = torch.randn(tokens, heads[1], v_dim).to(torch.float8_e5m2).to(dtype) if v_dim else None
    slots = torch.randperm(7)[:tokens] - 1
    cached = torch.float8_e5m2 if fp8 else dtype
    k_cache = torch.zeros(6, heads[1], dim + 1).to(cached)[..., :dim]
    v_cache = torch.zeros(6, heads[1], v_dim).to(cached) if v_dim else None
    their_q, their_k = q.clone(), k_cache.clone()
    their_v = None if v_cache is None else v_cache.clone()
    weights = torch.randn(2, dim).to(dtype)
    options = {
        "positions": draw_positions(tokens),
        "interleaved": interleaved,
        "q_weight": weights[0] if norm else None,
        "k_weight": weights[1] if norm else None,
        "eps": 1e-5,
        "gemma": norm == "gemma",
        "k_scale": 0.5 if fp8 else 1.0,
        "v_scale": 2.0 if fp8 else 1.0,
    }
    rope.rope_and_store_kv(q, k, v, cos, sin, k_cache, v_cache, slots, **options, tile=Tile(2, 4))
    sgl_kernels.rope_and_store_kv(their_q, k, v, cos, sin, their_k, their_v, slots, **options)
    close(q, their_q, dtype)
    if v_cache is not None and their_v is not None:
        assert torch.equal(v_cache.float(), their_v.float())
    if fp8:  # the interpreter rounds to float8 unlike the hardware, at worst to half of the number
        torch.testing.assert_close(k_cache.float(), their_k.float(), rtol=0.6, atol=1e-2)
    else:
        close(k_cache, their_k, dtype)


def test_what_lies_beyond_the_table_and_the_cache_is_not_touched() -> None:
    cos, sin = tables(8, False, torch.float32)
    q, k = torch.randn(3, 2, 8), torch.randn(3, 1, 8)
    memory = torch.zeros(4, 1, 8)
    before = q.clone()
    options = {"q_weight": None, "k_weight": None, "eps": 0.0, "gemma": False, "k_scale": 1.0, "v_scale": 1.0}
    rope.rope_and_store_kv(
        q, k, None, cos, sin, memory[:2], None, torch.tensor([2, 1, 3]),
        positions=torch.tensor([LENGTH, 2**40, 0]), interleaved=False, **options,
    )  # fmt: skip
    assert torch.equal(q[:2], before[:2])
    assert torch.equal(memory[1], k[1])
    assert not memory[[0, 2, 3]].any()


@pytest.mark.parametrize("heads", [1, 2, 16])
def test_any_number_of_heads_in_a_program(heads: int) -> None:
    cos, sin = tables(16, False, torch.float32)
    qk = torch.randn(2, 9, 16)
    theirs = qk.clone()
    positions = torch.tensor([3, 4])
    rope.apply_rope(
        qk[:, :7], qk[:, 7:], cos, sin, positions=positions, interleaved=False, tile=Tile(heads, 4)
    )
    sgl_kernels.apply_rope(theirs[:, :7], theirs[:, 7:], cos, sin, positions=positions)
    close(qk, theirs, torch.float32)
