# SPDX-License-Identifier: Apache-2.0
"""The paged cache against loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sgl_kernels import copy_kv, gather_kv, gather_slots, store_kv

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


def caches(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return torch.zeros(12, 3, 8, dtype=dtype), torch.zeros(12, 3, 5, dtype=dtype)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize(
    "slots", [[5], [9, 0, 4, 2], list(range(3, 9)), [], [-1, 7, -1, 0, -5], [0, -1], [-1], [-1, -1]]
)
def test_store_kv(slots: list[int], index: torch.dtype) -> None:
    qkv = torch.randn(len(slots), 10, 8)
    k, v = qkv[:, 4:7], qkv[:, 7:, :5]  # strided; values may be narrower
    k_cache, v_cache = caches()
    store_kv(k, v, k_cache, v_cache, torch.tensor(slots, dtype=index))
    keys_alone = caches()[0]
    store_kv(k, None, keys_alone, None, torch.tensor(slots, dtype=index))
    assert torch.equal(keys_alone, k_cache)
    for slot in range(12):
        if slot in slots:
            assert torch.equal(k_cache[slot], k[slots.index(slot)])
            assert torch.equal(v_cache[slot], v[slots.index(slot)])
        else:
            assert not k_cache[slot].any()
            assert not v_cache[slot].any()


@pytest.mark.parametrize("dtype", FP8)
@pytest.mark.parametrize("slots", [[3, 8], [3, -1]])
def test_float8_caches_hold_the_quotient(dtype: torch.dtype, slots: list[int]) -> None:
    k, v = torch.randn(2, 3, 8).bfloat16(), torch.randn(2, 3, 5).bfloat16()
    k[0, 0, :3] = torch.tensor([1e9, -1e9, float("nan")])
    k_cache, v_cache = caches(dtype)
    store_kv(k, v, k_cache, v_cache, torch.tensor(slots), k_scale=0.5, v_scale=0.03)
    most = torch.finfo(dtype).max
    assert k_cache[3, 0, :2].float().tolist() == [most, -most]
    assert k_cache[3, 0, 2].float().isnan()
    width = 0.07 if dtype == torch.float8_e4m3fn else 0.13  # half a step of the mantissa
    torch.testing.assert_close(v_cache[3].float(), v[0].float() / 0.03, rtol=width, atol=1e-2)
    read, values = gather_kv(k_cache, v_cache, torch.tensor(slots), k_scale=0.5, v_scale=0.03)
    assert read.dtype == torch.bfloat16
    assert values is not None
    torch.testing.assert_close(values[0], v[0], rtol=width, atol=1e-3)
    torch.testing.assert_close(read[0, 1:], k[0, 1:], rtol=width, atol=1e-2)
    if slots[1] < 0:
        assert not read[1].any()


def test_gather_kv() -> None:
    k_cache, v_cache = torch.randn(12, 3, 8), torch.randn(12, 3, 5)
    slots = torch.tensor([7, -1, 0, 7], dtype=torch.int32)
    k, v = gather_kv(k_cache, v_cache[..., :4], slots)
    assert v is not None
    for t, slot in enumerate(slots.tolist()):
        assert torch.equal(k[t], k_cache[slot] if slot >= 0 else torch.zeros(3, 8))
        assert torch.equal(v[t], v_cache[slot, :, :4] if slot >= 0 else torch.zeros(3, 4))
    assert gather_kv(k_cache, None, slots[:0])[0].shape == (0, 3, 8)


@pytest.mark.parametrize("dtype", [torch.float16, *FP8])
def test_copy_kv(dtype: torch.dtype) -> None:
    k_cache, v_cache = torch.randn(12, 3, 8).to(dtype), torch.randn(12, 3, 5).to(dtype)
    expected = [k_cache.float(), v_cache.float()]
    source, target = [1, 3, -1, 3, 4], [0, 7, 8, -1, 9]
    for cache in expected:
        for a, b in zip(source, target, strict=True):
            if a >= 0 and b >= 0:
                cache[b] = cache[a]
    copy_kv(k_cache, v_cache, torch.tensor(source), torch.tensor(target))
    assert torch.equal(k_cache.float(), expected[0])
    assert torch.equal(v_cache.float(), expected[1])
    copy_kv(k_cache, None, torch.tensor(source)[:0], torch.tensor(target)[:0])
    assert torch.equal(k_cache.float(), expected[0])


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_gather_slots(index: torch.dtype) -> None:
    table = torch.randint(1000, (5, 9), dtype=index)[:, :7]
    rows, lens = torch.tensor([3, 0, 4, 3]), torch.tensor([4, 0, 7, 1], dtype=torch.int32)
    expected = [table[row, i].item() for row, n in zip(rows, lens, strict=True) for i in range(n)]
    for total in (12, 20):
        indptr, slots = gather_slots(table, rows, lens, total)
        assert indptr.tolist() == [0, 4, 4, 11, 12]
        assert indptr.dtype == torch.int32
        assert slots.tolist() == expected + [-1] * (total - 12)
        assert slots.dtype == index
    out = torch.zeros(5, dtype=torch.int32), torch.zeros(5, dtype=index)
    assert gather_slots(table, rows, lens, 5, out=out) is out
    assert out[1].tolist() == expected[:5]


def test_rows_outside_the_table_have_no_slots() -> None:
    lens = torch.tensor([2, 1, 4, -3], dtype=torch.int32)
    indptr, slots = gather_slots(
        torch.arange(6).view(2, 3), torch.tensor([-1, 2, 1, 0], dtype=torch.int32), lens, 8
    )
    assert indptr.tolist() == [0, 2, 3, 7, 7]
    assert slots.tolist() == [-1, -1, -1, 3, 4, 5, -1, -1]
    indptr, slots = gather_slots(torch.zeros(2, 0, dtype=torch.int64), torch.tensor([1]), lens[:1], 2)
    assert slots.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": torch.zeros(2, 3)}, r"k: must be of shape \[any, any, any\]"),
        ({"k": torch.zeros(2, 3, 8).long()}, "k: must be float32"),
        ({"k_cache": torch.zeros(12, 3, 9)}, "k_cache: must be of shape"),
        ({"k_cache": torch.zeros(12, 3, 8).half()}, "k_cache: must be float32 or float8"),
        ({"k_cache": torch.zeros(12, 8, 3).mT}, "k_cache: elements of the last dimension"),
        ({"v": torch.zeros(2, 2, 5)}, "v: must be of shape"),
        ({"v": None}, "v_cache: must be given if v is"),
        ({"v_cache": torch.zeros(11, 3, 5)}, "v_cache: must be of shape"),
        ({"v_cache": torch.zeros(12, 3, 5).to(torch.float8_e5m2)}, "v_cache: must be float32"),
        ({"slots": torch.zeros(3).long()}, "slots: must be of shape"),
        ({"slots": torch.zeros(2)}, "slots: must be int32 or int64"),
        ({"k_scale": 2.0}, "k_scale: must be 1.0 for a cache of"),
        ({"v_scale": 0.0}, "v_scale: must be between 1e-30 and 1e30, not 0"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    k_cache, v_cache = caches()
    arguments = {"k": torch.zeros(2, 3, 8), "v": torch.zeros(2, 3, 5), "k_cache": k_cache, "v_cache": v_cache}
    arguments["slots"] = torch.arange(2)
    with pytest.raises(ValueError, match=message):
        store_kv(**(arguments | changed))


def test_what_is_refused_by_the_others() -> None:
    k_cache, v_cache = caches()
    with pytest.raises(ValueError, match="dtype: must be float32, float16 or bfloat16"):
        gather_kv(k_cache, v_cache, torch.arange(2), dtype=torch.int32)
    with pytest.raises(ValueError, match="k_cache: must be float16 or float8"):
        gather_kv(k_cache, v_cache, torch.arange(2), dtype=torch.float16)
    with pytest.raises(ValueError, match="target: must be of shape"):
        copy_kv(k_cache, v_cache, torch.arange(2), torch.arange(3))
    with pytest.raises(ValueError, match="total: must not be negative"):
        gather_slots(torch.zeros(2, 2).int(), torch.arange(2), torch.zeros(2).int(), -1)
    with pytest.raises(ValueError, match=r"out\[1\]: must be of shape"):
        gather_slots(
            torch.zeros(2, 2).int(),
            torch.arange(2),
            torch.zeros(2).int(),
            4,
            out=(torch.zeros(3).int(), torch.zeros(5).int()),
        )


def test_slots_beyond_the_cache_are_index_errors() -> None:
    cache, k, far = torch.zeros(4, 1, 8), torch.zeros(2, 1, 8), torch.tensor([4, -1])
    with pytest.raises(IndexError):
        store_kv(k, None, cache, None, far)
    with pytest.raises(IndexError):
        gather_kv(cache, None, far)
    for moves in ((far, far * 0), (far * 0, far)):
        with pytest.raises(IndexError):
            copy_kv(cache, None, *moves)
