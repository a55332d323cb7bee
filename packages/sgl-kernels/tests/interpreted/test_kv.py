# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels over the paged cache, interpreted, against the reference. Untouched slots stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import sgl_kernels
from sgl_kernels._triton import kv

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SLOTS = 9


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-2, SLOTS - 1), max_size=6, unique=True),
    st.integers(1, 3),
    st.sampled_from([1, 5, 16, 40]),
    st.sampled_from([0, 3, 16]),
    st.sampled_from(FLOATS),
    st.sampled_from((None, *FP8)),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_store_and_gather(
    slots: list[int],
    heads: int,
    dim: int,
    v_dim: int,
    dtype: torch.dtype,
    fp8: torch.dtype | None,
    index: torch.dtype,
) -> None:
    qkv = torch.randn(len(slots), 2 * heads, dim + v_dim)  # heads and elements lie apart
    # The interpreter's rounding to float8 is wrong where it carries into the exponent: nothing to round.
    qkv = qkv.to(fp8 or dtype).to(dtype)
    k, v = qkv[:, :heads, :dim], qkv[:, heads:, dim:] if v_dim else None
    where = torch.tensor(slots, dtype=index)
    caches = [torch.randn(SLOTS, heads + 1, dim + v_dim + 2).to(fp8 or dtype) for _ in range(2)]
    theirs = [cache.clone() for cache in caches]
    scales = (0.5, 2.0) if fp8 else (1.0, 1.0)

    def views(pair: list[Tensor]) -> tuple[Tensor, Tensor | None]:
        return pair[0][:, :heads, :dim], pair[1][:, 1:, 2 : 2 + v_dim] if v_dim else None

    (k_cache, v_cache), (their_k, their_v) = views(caches), views(theirs)
    kv.store_kv(k, v, k_cache, v_cache, where, k_scale=scales[0], v_scale=scales[1])
    sgl_kernels.store_kv(k, v, their_k, their_v, where, k_scale=scales[0], v_scale=scales[1])
    for ours, reference in zip(caches, theirs, strict=True):
        assert torch.equal(ours.float(), reference.float())

    out = torch.float32 if fp8 else dtype
    read = torch.cat([where, where[:2]])
    ours = kv.gather_kv(k_cache, v_cache, read, dtype=out, k_scale=scales[0], v_scale=scales[1])
    reference = sgl_kernels.gather_kv(k_cache, v_cache, read, dtype=out, k_scale=scales[0], v_scale=scales[1])
    assert torch.equal(ours[0], reference[0])
    if v_dim:
        assert torch.equal(ours[1], reference[1])


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-2, 4), max_size=5),
    st.permutations(range(-2, 4)),
    st.sampled_from([*FLOATS, *FP8]),
)
def test_copy(source: list[int], target: list[int], dtype: torch.dtype) -> None:
    """From the first five slots to those behind them."""
    targets = [slot + 5 if slot >= 0 else slot for slot in target[: len(source)]]
    k_cache, v_cache = torch.randn(SLOTS, 2, 5).to(dtype), torch.randn(SLOTS, 2, 20).to(dtype)
    their_k, their_v = k_cache.clone(), v_cache.clone()
    arguments = torch.tensor(source, dtype=torch.int64), torch.tensor(targets, dtype=torch.int64)
    kv.copy_kv(k_cache, v_cache, *arguments)
    sgl_kernels.copy_kv(their_k, their_v, *arguments)
    assert torch.equal(k_cache.float(), their_k.float())
    assert torch.equal(v_cache.float(), their_v.float())


def test_slots_beyond_the_cache_are_not_touched() -> None:
    """Memory behind a cache's last slot: the kernel neither writes nor reads it."""
    memory = torch.randn(6, 2, 8)
    cache, behind, before = memory[:4], memory[4:].clone(), memory[:4].clone()
    slots = torch.tensor([4, 2**40, 1])
    k = torch.randn(3, 2, 8)
    kv.store_kv(k, None, cache, None, slots, k_scale=1.0, v_scale=1.0)
    assert torch.equal(memory[4:], behind)
    assert torch.equal(cache[1], k[2])
    read, _ = kv.gather_kv(cache, None, slots, dtype=torch.float32, k_scale=1.0, v_scale=1.0)
    assert torch.equal(read, torch.stack([torch.zeros(2, 8), torch.zeros(2, 8), k[2]]))
    kv.copy_kv(cache, None, torch.tensor([5, 1]), torch.tensor([0, 5]))
    assert torch.equal(memory[4:], behind)
    assert torch.equal(cache[0], before[0])


def test_slots_far_apart() -> None:
    """The second slot lies 2³¹ elements behind the first; of the memory between them no page is touched."""
    cache = torch.empty(2**31 + 8, dtype=torch.float8_e5m2).as_strided((2, 1, 4), (2**31, 4, 1))
    k = torch.tensor([[[1.0, 2.0, 3.0, 4.0]], [[5.0, 6.0, 7.0, 8.0]]])
    kv.store_kv(k, None, cache, None, torch.tensor([1, 0]), k_scale=1.0, v_scale=1.0)
    read, _ = kv.gather_kv(cache, None, torch.tensor([0, 1]), dtype=torch.float32, k_scale=1.0, v_scale=1.0)
    assert torch.equal(read, k.flip(0))
    kv.copy_kv(cache, None, torch.tensor([1]), torch.tensor([0]))
    assert torch.equal(cache[0].float(), k[0])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 9)), max_size=7),
    st.integers(0, 12),
    st.integers(0, 9),
    st.sampled_from([torch.int32, torch.int64]),
)
def test_gather_slots(requests: list[tuple[int, int]], more: int, width: int, index: torch.dtype) -> None:
    table = torch.randint(1 << 30, (4, 12), dtype=index)[:, 1 : 1 + width]
    rows = torch.tensor([row for row, _ in requests], dtype=torch.int64)
    lens = torch.tensor([length for _, length in requests], dtype=torch.int32)
    total = max(0, int(lens.sum()) + more - 4)  # too few now and then
    out = torch.full((len(rows) + 1,), -7, dtype=torch.int32), torch.full((total,), -7, dtype=index)
    kv.gather_slots(table, rows, lens, out)
    reference = sgl_kernels.gather_slots(table, rows, lens, total)
    assert torch.equal(out[0], reference[0])
    assert torch.equal(out[1], reference[1])


@pytest.mark.parametrize("requests", [1, 1100])
def test_gather_slots_in_many_blocks(requests: int) -> None:
    table = torch.randint(1 << 30, (requests, 2600 // requests + 2))
    rows, lens = torch.randperm(requests), torch.randint(table.shape[1], (requests,), dtype=torch.int32)
    total = int(lens.sum()) + 1100
    out = torch.empty(requests + 1, dtype=torch.int32), torch.empty(total, dtype=torch.int64)
    kv.gather_slots(table, rows, lens, out)
    reference = sgl_kernels.gather_slots(table, rows, lens, total)
    assert torch.equal(out[0], reference[0])
    assert torch.equal(out[1], reference[1])
