# SPDX-License-Identifier: Apache-2.0
"""Writing, reading and moving rows of the paged cache. A page is one token: a slot is a row of the cache.

A negative slot stands for no slot, so that a batch may be padded to the size of a CUDA graph. Knows neither
whose a slot is nor which are free.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOAT8, FLOATS, INTEGERS, check, require
from sgl_kernels._rows import put_rows, take_rows

_CACHED = MappingProxyType({dtype: (dtype, *FLOAT8) for dtype in FLOATS})  # what may hold rows of a dtype
_HEADS = (None, None, None)


def store_kv(
    k: Tensor,
    v: Tensor | None,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """`k_cache[slots] = k; v_cache[slots] = v`, where slots are not negative.

    k [T, hk, d] and v [T, hk, dv] float32, float16 or bfloat16, of one dtype; caches [S, hk, d] and [S, hk,
    dv] both of k's dtype, or float8_e4m3fn, or float8_e5m2; all may be strided views whose last dimension is
    contiguous (views of one projection, say). slots [T] int32 or int64, none twice. Without v and v_cache
    only keys are stored (latent attention, whose values are a part of them).

    k_scale, v_scale: what an element of a float8 cache is multiplied with to give the key or value, a number
    between 1e-30 and 1e30; what is stored is `k * (1 / k_scale)` in float32, bounded by the largest finite
    number, rounded to nearest. 1.0 for caches of any other dtype.

    Raises ValueError on other shapes, dtypes, strides, devices and scales. A slot beyond the cache is an
    IndexError on a CPU, and stores nothing on a GPU.
    """
    check_store(k, v, k_cache, v_cache, slots, k_scale, v_scale)
    if kernels := fast("kv", k.device):
        kernels.store_kv(k, v, k_cache, v_cache, slots, k_scale=k_scale, v_scale=v_scale)
        return
    pairs = [(k_cache, to_cache(k, k_cache.dtype, k_scale))]
    if v is not None and v_cache is not None:
        pairs.append((v_cache, to_cache(v, v_cache.dtype, v_scale)))
    put_rows(pairs, slots.long())


def gather_kv(
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    dtype: torch.dtype | None = None,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> tuple[Tensor, Tensor | None]:
    """`(k_cache[slots] * k_scale, v_cache[slots] * v_scale)`; zeros where a slot is negative.

    Caches and scales as in `store_kv`, slots [T] in any order and number. Returns fresh k [T, hk, d] and
    v [T, hk, dv] (None without v_cache), contiguous, of `dtype`: by default that of a cache that is not
    float8, and bfloat16 of one that is; a cache that is not float8 is read in its own dtype alone.

    Raises ValueError as `store_kv`. A slot beyond the cache is an IndexError on a CPU, and gives zeros on a
    GPU.
    """
    dtype = dtype or (torch.bfloat16 if k_cache.dtype in FLOAT8 else k_cache.dtype)
    require(dtype in FLOATS, "dtype", f"must be float32, float16 or bfloat16, not {dtype}")
    check("k_cache", k_cache, _HEADS, dtypes=_CACHED[dtype], rows=True)
    if v_cache is not None:
        check("v_cache", v_cache, (*k_cache.shape[:2], None), like=k_cache, rows=True)
    check("slots", slots, (None,), like=k_cache, dtypes=INTEGERS)
    check_scales(k_scale, v_scale, k_cache.dtype)
    if kernels := fast("kv", k_cache.device):
        return kernels.gather_kv(k_cache, v_cache, slots, dtype=dtype, k_scale=k_scale, v_scale=v_scale)
    none = (slots < 0)[:, None, None]
    found = slots.long().clamp(min=0)

    def read(cache: Tensor, scale: float) -> Tensor:
        if not len(cache) or not len(found):
            require(not len(found), "slots", "the cache has none")
            return cache.new_empty(0, *cache.shape[1:], dtype=dtype)
        rows = take_rows(cache, found)
        rows = (rows.float() * scale).to(dtype) if cache.dtype in FLOAT8 else rows
        return rows.masked_fill_(none, 0)

    return read(k_cache, k_scale), None if v_cache is None else read(v_cache, v_scale)


def copy_kv(k_cache: Tensor, v_cache: Tensor | None, source: Tensor, target: Tensor) -> None:
    """`k_cache[target] = k_cache[source]`, and so v_cache; nothing where either slot is negative.

    Caches as in `store_kv`; source and target [T] int32 or int64, of one dtype. No target is there twice, and
    none is also a source: the moves happen in no order.

    Raises ValueError as `store_kv`. A slot beyond the cache is an IndexError on a CPU, and moves nothing on a
    GPU.
    """
    check("k_cache", k_cache, _HEADS, dtypes=(*FLOATS, *FLOAT8), rows=True)
    if v_cache is not None:
        check("v_cache", v_cache, [*k_cache.shape[:2], None], like=k_cache, rows=True)
    check("source", source, [None], like=k_cache, dtypes=INTEGERS)
    check("target", target, list(source.shape), like=source)
    if kernels := fast("kv", k_cache.device):
        kernels.copy_kv(k_cache, v_cache, source, target)
        return
    if not len(source):
        return
    there = torch.where(source < 0, source, target).long()
    source = source.long().clamp(min=0)
    caches = [cache for cache in (k_cache, v_cache) if cache is not None]
    put_rows([(cache, take_rows(cache, source)) for cache in caches], there)


def gather_slots(
    table: Tensor, rows: Tensor, kv_lens: Tensor, total: int, *, out: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """(kv_indptr [n+1] int32, kv_slots [total]) of a `PagedLayout`, made where the lengths are.

    table [R, width] int32 or int64, its last dimension contiguous: the slots of each request's tokens by
    position. rows [n] int32 or int64: the requests of the step, as rows of the table; kv_lens [n] int32: how
    many tokens each has, 0 to width. total: how many there are together, or any larger number: what is left
    of kv_slots, of the table's dtype, is -1. out: the two tensors to fill and return, contiguous, which a
    captured CUDA graph may hold; fresh ones if None.

    Raises ValueError on other shapes, dtypes, strides and devices. Values are not looked at by the host:
    tokens of a row outside the table, or beyond its width, get -1; those beyond `total` are left out, though
    kv_indptr counts them; a negative length counts as 0.
    """
    check("table", table, [None, None], dtypes=INTEGERS, rows=True)
    check("rows", rows, [None], like=table, dtypes=INTEGERS)
    check("kv_lens", kv_lens, list(rows.shape), like=table, dtypes=(torch.int32,), contiguous=True)
    require(total >= 0, "total", f"must not be negative: {total}")
    if out is None:
        out = (kv_lens.new_empty(len(rows) + 1), table.new_empty(total))
    check("out[0]", out[0], [len(rows) + 1], like=kv_lens, contiguous=True)
    check("out[1]", out[1], [total], like=table, contiguous=True)
    if kernels := fast("kv", table.device):
        kernels.gather_slots(table, rows, kv_lens, out)
        return out
    kv_indptr, kv_slots = out
    kv_indptr[0] = 0
    kv_indptr[1:] = kv_lens.clamp(min=0).cumsum(0)
    if not (table.numel() and len(rows)):
        kv_slots.fill_(-1)
    elif total:
        place = torch.arange(total, device=table.device)
        request = torch.searchsorted(kv_indptr[1:].long(), place, right=True)
        there = request < len(rows)
        request = request.clamp_(max=len(rows) - 1)
        row, position = rows[request].long(), place - kv_indptr[request]
        there &= (row >= 0) & (row < len(table)) & (position < table.shape[1])
        known = table[torch.where(there, row, 0), torch.where(there, position, 0)]
        kv_slots.copy_(torch.where(there, known, -1))
    return out


def check_store(
    k: Tensor,
    v: Tensor | None,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    k_scale: float,
    v_scale: float,
) -> None:
    """What `store_kv` asks of its arguments; ValueError otherwise."""
    check("k", k, _HEADS, dtypes=FLOATS, rows=True)
    _, heads, dim = k.shape
    check("k_cache", k_cache, (None, heads, dim), like=k, dtypes=_CACHED[k.dtype], rows=True)
    if v is None or v_cache is None:
        require(v is v_cache, "v_cache", "must be given if v is, and only then")
    else:
        check("v", v, (len(k), heads, None), like=k, rows=True)
        check("v_cache", v_cache, (len(k_cache), heads, v.shape[2]), like=k_cache, rows=True)
    check("slots", slots, (len(k),), like=k, dtypes=INTEGERS)
    check_scales(k_scale, v_scale, k_cache.dtype)


def to_cache(x: Tensor, dtype: torch.dtype, scale: float) -> Tensor:
    """x as it is stored in a cache of this dtype."""
    if dtype not in FLOAT8:
        return x
    most = torch.finfo(dtype).max
    return (x.float() * (1.0 / scale)).clamp_(-most, most).to(dtype)


def check_scales(k_scale: float, v_scale: float, dtype: torch.dtype) -> None:
    if k_scale == v_scale == 1.0:
        return
    for argument, scale in (("k_scale", k_scale), ("v_scale", v_scale)):
        require(1e-30 <= scale <= 1e30, argument, f"must be between 1e-30 and 1e30, not {scale}")
        require(scale == 1.0 or dtype in FLOAT8, argument, f"must be 1.0 for a cache of {dtype}, not {scale}")
