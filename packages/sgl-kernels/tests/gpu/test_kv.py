# SPDX-License-Identifier: Apache-2.0
"""The paged cache on a GPU against the reference on the CPU, far slots, and in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sgl_kernels import copy_kv, gather_kv, gather_slots, store_kv

pytestmark = pytest.mark.gpu

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def same(ours: Tensor, reference: Tensor) -> None:
    assert ours.dtype == reference.dtype
    torch.testing.assert_close(ours.cpu().float(), reference.float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("heads", "dim", "v_dim", "dtype", "cached"),
    [
        (8, 128, 128, torch.bfloat16, None),
        (8, 128, 128, torch.bfloat16, FP8[0]),
        (3, 7, 5, torch.float32, FP8[1]),
        (1, 576, 0, torch.float16, None),
    ],
)
def test_as_on_the_cpu(
    heads: int, dim: int, v_dim: int, dtype: torch.dtype, cached: torch.dtype | None
) -> None:
    for tokens in (0, 1, 100):
        kv = torch.randn(tokens, 2 * heads, max(dim, v_dim)).to(dtype) * 100
        if tokens:
            kv[0, 0, :3] = torch.tensor([float("nan"), float("inf"), -1e30])
        k, v = kv[:, :heads, :dim], kv[:, heads:, :v_dim] if v_dim else None
        slots = (torch.randperm(400)[:tokens] - 5).int()
        caches = [torch.randn(400, heads, max(dim, v_dim)).to(cached or dtype) for _ in range(2)]
        on_gpu = [cache.cuda() for cache in caches]
        scales = {"k_scale": 0.37, "v_scale": 3.0} if cached else {}

        def views(pair: list[Tensor]) -> tuple[Tensor, Tensor | None]:
            return pair[0][..., :dim], pair[1][..., :v_dim] if v_dim else None

        values = None if v is None else kv.cuda()[:, heads:, :v_dim]
        store_kv(kv.cuda()[:, :heads, :dim], values, *views(on_gpu), slots.cuda(), **scales)
        store_kv(k, v, *views(caches), slots, **scales)
        for ours, reference in zip(on_gpu, caches, strict=True):
            same(ours, reference)
        ours = gather_kv(*views(on_gpu), slots.cuda(), **scales)
        reference = gather_kv(*views(caches), slots, **scales)
        same(ours[0], reference[0])
        source, target = (slots % 200).unique(), torch.randperm(200) + 200
        moves = source, target[: len(source)].int()
        copy_kv(*views(on_gpu), *(move.cuda() for move in moves))
        copy_kv(*views(caches), *moves)
        for ours_, reference_ in zip(on_gpu, caches, strict=True):
            same(ours_, reference_)


def test_slots_far_apart() -> None:
    """More than 2³¹ elements of one cache."""
    cache = torch.empty(2**31 // 1024 + 9, 8, 128, device="cuda", dtype=torch.float8_e5m2)
    last, k = len(cache) - 1, torch.randn(2, 8, 128, device="cuda").to(torch.float8_e5m2).bfloat16()
    slots = torch.tensor([last, 0], device="cuda")
    store_kv(k, None, cache, None, slots)
    assert torch.equal(gather_kv(cache, None, slots)[0], k)
    copy_kv(cache, None, slots[:1], slots[1:])
    assert torch.equal(gather_kv(cache, None, slots)[0], k[[0, 0]])


def test_slots_outside_the_cache_are_left_alone() -> None:
    memory = torch.zeros(6, 2, 64, device="cuda")
    k, slots = torch.ones(4, 2, 64, device="cuda"), torch.tensor([4, -1, 2**40, 1], device="cuda")
    store_kv(k, None, memory[:4], None, slots)
    assert memory.sum() == memory[1].sum() == 128
    assert gather_kv(memory[:4], None, slots)[0].sum() == 128
    copy_kv(memory[:4], None, slots[3:].repeat(2), torch.tensor([4, 5], device="cuda"))
    assert memory.sum() == 128


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("n", [0, 1, 200, 1500])
def test_gather_slots(n: int, index: torch.dtype) -> None:
    table = torch.randint(1 << 30, (n + 2, 3000), dtype=index)
    rows, lens = torch.randperm(n + 2)[:n], torch.randint(0, 3000, (n,), dtype=torch.int32)
    for more in (0, 5000, -7):
        total = max(0, int(lens.sum()) + more)
        ours = gather_slots(table.cuda(), rows.cuda(), lens.cuda(), total)
        for mine, reference in zip(ours, gather_slots(table, rows, lens, total), strict=True):
            assert torch.equal(mine.cpu(), reference)


def test_in_a_graph() -> None:
    table = torch.randint(1 << 20, (8, 500), device="cuda")
    rows, lens = torch.arange(4, device="cuda"), torch.full((4,), 100, dtype=torch.int32, device="cuda")
    cache, k = torch.zeros(64, 2, 64, device="cuda").half(), torch.randn(4, 2, 64, device="cuda").half()
    out = (
        torch.zeros(5, dtype=torch.int32, device="cuda"),
        torch.zeros(1000, dtype=torch.int64, device="cuda"),
    )
    slots = torch.arange(4, device="cuda")

    def step() -> Tensor:
        gather_slots(table, rows, lens, 1000, out=out)
        store_kv(k, None, cache, None, slots)
        return gather_kv(cache, None, slots)[0]

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        read = step()
    for _ in range(3):
        k.normal_()
        slots.copy_(torch.randperm(64, device="cuda")[:4])
        lens.random_(0, 250)
        rows.copy_(torch.randperm(8, device="cuda")[:4])
        graph.replay()
        assert torch.equal(read, k)
        assert torch.equal(cache[slots], k)
        expected = gather_slots(table.cpu(), rows.cpu(), lens.cpu(), 1000)
        assert torch.equal(out[0].cpu(), expected[0])
        assert torch.equal(out[1].cpu(), expected[1])
