# SPDX-License-Identifier: Apache-2.0
"""Rows of the paged cache: one kernel stores, gathers and copies, for all three move rows of heads.

A row is one head of one token. A tile is a few consecutive rows of the smaller side; the keys' and the
values' are moved by the same program, so that both are on their way at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping, wait
from sgl_kernels._triton.sizes import cdiv, next_power_of_2

MOST = {torch.float8_e4m3fn: 448, torch.float8_e5m2: 57344}  # the largest finite numbers


class Tile(NamedTuple):
    """elements: about how many of the keys a program moves; warps: of a program."""

    elements: int
    warps: int


TILE = Tile(1024, 4)


@triton.jit
def stored(x, scale, MOST: tl.constexpr):
    """x float32 as it goes to a cache: scaled and bounded if that is float8 (MOST is not 0)."""
    if MOST:
        x = tl.clamp(x * scale, -MOST, MOST, propagate_nan=tl.PropagateNan.ALL)
    return x


@triton.jit
def _put(target, x, scale, ours, MULTIPLY: tl.constexpr, MOST: tl.constexpr):
    if MULTIPLY:
        x = x.to(tl.float32) * scale
    elif MOST:
        x = stored(x.to(tl.float32), scale, MOST)
    tl.store(target, x.to(target.dtype.element_ty), ours)


@triton.jit(do_not_specialize=["tokens", "from_rows", "to_rows"])
def _move(
    k_ptr, v_ptr, to_k_ptr, to_v_ptr, from_ptr, to_ptr, tokens, from_rows, to_rows, k_scale, v_scale,
    k_stride, k_head, v_stride, v_head, to_k_stride, to_k_head, to_v_stride, to_v_head,
    HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, COLUMNS: tl.constexpr,
    V_COLUMNS: tl.constexpr, GATHER: tl.constexpr, SCATTER: tl.constexpr, MULTIPLY: tl.constexpr,
    MOST: tl.constexpr, ROWS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Row t of the source is from_ptr[t] if GATHER, row t of the target to_ptr[t] if SCATTER; otherwise t.

    Everything is read before anything is written: a load behind a store would wait for it.
    """
    begin(OVERLAP)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token = row // HEADS
    head = row % HEADS
    ours = token < tokens
    from_ = token
    to = token
    read = ours
    write = ours
    if GATHER:
        from_ = tl.load(from_ptr + token, ours, other=-1).to(tl.int64)
        read = (from_ >= 0) & (from_ < from_rows)
    if SCATTER:
        to = tl.load(to_ptr + token, ours, other=-1).to(tl.int64)
        write = (to >= 0) & (to < to_rows) & read
    column = tl.arange(0, COLUMNS)[None, :]
    inside = column < DIM
    source = k_ptr + (from_ * k_stride + head * k_head)[:, None] + column
    k = tl.load(source, read[:, None] & inside, other=0.0)
    if V_DIM:
        v_column = tl.arange(0, V_COLUMNS)[None, :]
        v_inside = v_column < V_DIM
        v_source = v_ptr + (from_ * v_stride + head * v_head)[:, None] + v_column
        v = tl.load(v_source, read[:, None] & v_inside, other=0.0)
    target = to_k_ptr + (to * to_k_stride + head * to_k_head)[:, None] + column
    _put(target, k, k_scale, write[:, None] & inside, MULTIPLY, MOST)
    if V_DIM:
        v_target = to_v_ptr + (to * to_v_stride + head * to_v_head)[:, None] + v_column
        _put(v_target, v, v_scale, write[:, None] & v_inside, MULTIPLY, MOST)


@triton.jit(do_not_specialize=["requests", "total", "table_rows"])
def _gather_slots(
    table_ptr, rows_ptr, lens_ptr, indptr_ptr, slots_ptr, requests, total, table_rows, width, stride,
    BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Programs (request, part): each adds up the lengths before its request. The request behind the last one
    is what is left of the slots."""
    wait(OVERLAP)
    request = tl.program_id(0)
    part = tl.program_id(1)
    sums = tl.zeros((BLOCK,), tl.int64)
    for earlier in range(0, request, BLOCK):
        before = earlier + tl.arange(0, BLOCK)
        sums += tl.maximum(tl.load(lens_ptr + before, before < request, other=0), 0)
    first = tl.sum(sums, 0)
    if part == 0:
        tl.store(indptr_ptr + request, first.to(tl.int32))
    if request < requests:
        length = tl.load(lens_ptr + request).to(tl.int64)
        row = tl.load(rows_ptr + request).to(tl.int64)
        length = tl.minimum(length, total - first)
        known = (row >= 0) & (row < table_rows)
        for block in range(part * BLOCK, length, tl.num_programs(1) * BLOCK):
            position = block + tl.arange(0, BLOCK)
            inside = (position < width) & (position < length) & known
            slot = tl.load(table_ptr + row * stride + position, inside, other=-1)
            tl.store(slots_ptr + first + position, slot, position < length)
    else:
        for behind in range(first + part * BLOCK, total, tl.num_programs(1) * BLOCK):
            place = behind + tl.arange(0, BLOCK)
            tl.store(slots_ptr + place, tl.full((BLOCK,), -1, tl.int32), place < total)


def store_kv(
    k: Tensor,
    v: Tensor | None,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    k_scale: float,
    v_scale: float,
    tile: Tile = TILE,
) -> None:
    _launch(k, v, k_cache, v_cache, None, slots, 1.0 / k_scale, 1.0 / v_scale, False, tile)


def gather_kv(
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    dtype: torch.dtype,
    k_scale: float,
    v_scale: float,
    tile: Tile = TILE,
) -> tuple[Tensor, Tensor | None]:
    k = k_cache.new_empty(len(slots), *k_cache.shape[1:], dtype=dtype)
    v = None if v_cache is None else v_cache.new_empty(len(slots), *v_cache.shape[1:], dtype=dtype)
    _launch(k_cache, v_cache, k, v, slots, None, k_scale, v_scale, k_cache.dtype in MOST, tile)
    return k, v


def copy_kv(
    k_cache: Tensor, v_cache: Tensor | None, source: Tensor, target: Tensor, *, tile: Tile = TILE
) -> None:
    caches = [None if cache is None else _plain(cache) for cache in (k_cache, v_cache)]
    _launch(caches[0], caches[1], caches[0], caches[1], source, target, 1.0, 1.0, False, tile)


def _launch(k, v, to_k, to_v, source, target, k_scale, v_scale, multiply, tile):
    """source, target: rows of (k, v) and of (to_k, to_v); None where they are 0, 1, 2, ...

    k_scale, v_scale: what elements are multiplied with, if `multiply` or if the target is float8.
    """
    slots = target if source is None else source
    _, heads, dim = k.shape
    v_dim = 0 if v is None else v.shape[-1]
    if not slots.numel() * heads * dim:
        return
    columns = next_power_of_2(dim)
    rows = next_power_of_2(max(1, tile.elements // columns))
    strides = [*k.stride()[:2], *(v.stride()[:2] if v_dim else (0, 0))]
    strides += [*to_k.stride()[:2], *(to_v.stride()[:2] if v_dim else (0, 0))]
    contiguous = [None if index is None else index.contiguous() for index in (source, target)]
    programs = cdiv(len(slots) * heads, rows)
    _move[(programs,)](
        k, v, to_k, to_v, *contiguous, len(slots), len(k), len(to_k), k_scale, v_scale, *strides,
        HEADS=heads, DIM=dim, V_DIM=v_dim, COLUMNS=columns, V_COLUMNS=next_power_of_2(max(1, v_dim)),
        GATHER=source is not None, SCATTER=target is not None, MULTIPLY=multiply,
        MOST=MOST.get(to_k.dtype, 0), ROWS=rows, num_warps=tile.warps,
        **overlapping(k.device, programs),
    )  # fmt: skip


def _plain(cache: Tensor) -> Tensor:
    """The cache, or its bytes if it is float8: a copy changes no number."""
    return cache.view(torch.uint8) if cache.dtype in MOST else cache


def gather_slots(table: Tensor, rows: Tensor, kv_lens: Tensor, out: tuple[Tensor, Tensor]) -> None:
    block, total = 1024, len(out[1])
    # Enough programs to fill the chip when few requests are long.
    parts = max(1, min(64, cdiv(1056, len(rows) + 1), cdiv(total, block)))
    _gather_slots[(len(rows) + 1, parts)](
        table, rows.contiguous(), kv_lens, *out, len(rows), total, len(table), table.shape[1],
        table.stride(0), BLOCK=block, num_warps=4, **overlapping(table.device, 1),
    )  # fmt: skip
