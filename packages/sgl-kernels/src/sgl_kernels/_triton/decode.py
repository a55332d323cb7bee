# SPDX-License-Identifier: Apache-2.0
"""Attention of requests with one query over paged keys and values: bound by reading the cache once.

As many programs as the GPU holds at a time, each a lane of one KV head: it walks over its share of the tokens
of all requests, whose lengths do not matter. The query heads of the KV head are the rows of a product. A
request that several lanes share leaves a state for each piece; a small launch after this one merges them.

`_narrow` walks over all blocks of a lane in one loop, so that the gathers of the next blocks are in flight
also where one request ends and the next begins; slots are loaded a block ahead of the keys they lead to.
`_wide`, for more rows, walks request by request: queries stay in place, and the pieces are long.

Requests that begin with the same slots are rows of one wide product over these, in a launch of its own; to
the merging launch its results are pieces like others (Juravsky et al., "Hydragen", 2024).

Each launch may begin while the one before it ends: it waits before it touches what is not the plan's.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sgl_kernels._check import FLOAT8
from sgl_kernels._triton.decode_float8 import as_words, decode_words
from sgl_kernels._triton.decode_piece import leave, weights_of
from sgl_kernels._triton.decode_plan import (
    LANE,
    MERGE,
    PIECE,
    DecodePlan,
    Tile,
    float8_tile,
    plan_decode,
    tile_at,
)
from sgl_kernels._triton.merge import merge_pieces
from sgl_kernels._triton.overlap import overlapping
from sgl_kernels._triton.sizes import cdiv, next_power_of_2

__all__ = ["DecodePlan", "plan_decode", "run_decode"]

_LOG2E = 1.4426950408889634
_ROOM = 190_000  # bytes
_MANTISSA = MappingProxyType({torch.float8_e4m3fn: 3, torch.float8_e5m2: 2})  # bits, of caches


@triton.jit
def _fit(q0, q1, D1: tl.constexpr):
    """Queries in float16 with a largest element of 1, and what that is: float8 keys are exact in float16."""
    q0 = q0.to(tl.float32)
    largest = tl.max(tl.abs(q0), 1)
    if D1:
        q1 = q1.to(tl.float32)
        largest = tl.maximum(largest, tl.max(tl.abs(q1), 1))
    largest = tl.where(largest > 0, largest, 1.0)
    q0 = (q0 / largest[:, None]).to(tl.float16)
    if D1:
        q1 = (q1 / largest[:, None]).to(tl.float16)
    return q0, q1, largest


@triton.jit
def _first_rows(x, M: tl.constexpr, ROWS: tl.constexpr):
    """The first ROWS of M rows: less to move through shared memory, whose use decides what is resident."""
    if ROWS == M:
        return x
    kept = tl.arange(0, M) < ROWS
    if len(x.shape) == 1:
        return tl.sum(tl.reshape(tl.where(kept, x, 0.0), (M // ROWS, ROWS)), 0)
    else:
        return tl.sum(tl.reshape(tl.where(kept[:, None], x, 0.0), (M // ROWS, ROWS, x.shape[1])), 0)


@triton.jit
def _narrow(
    q_ptr, k_ptr, v_ptr, out_ptr, slots_ptr, lanes_ptr, pieces_ptr, part_ptr, sum_ptr,
    scale, softcap, v_scale,
    q_token, q_head, k_slot, k_head, v_slot, v_head, out_token, out_head,
    GROUP: tl.constexpr, TILES: tl.constexpr, Q_HEADS: tl.constexpr,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, V_DIM: tl.constexpr, V: tl.constexpr,
    LATENT: tl.constexpr, SOFTCAP: tl.constexpr, FLOAT8: tl.constexpr, OVERLAP: tl.constexpr,
    LANE: tl.constexpr, PIECE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One lane of up to M query heads of one KV head, ROWS of which there are. Pieces of one query each."""
    kv_head = (tl.program_id(0) // TILES).to(tl.int64)
    tile = tl.program_id(0) % TILES * M
    m = tile + tl.arange(0, M)
    n = tl.arange(0, N)
    d0 = tl.arange(0, D0)
    v = tl.arange(0, V)
    valid = m < GROUP
    head = kv_head * GROUP + m
    k_ptr += kv_head * k_head
    v_ptr += kv_head * v_head
    q_rows = q_ptr + head[:, None] * q_head
    lane = lanes_ptr + tl.program_id(1) * LANE
    following = pieces_ptr + tl.load(lane) * PIECE
    blocks = tl.load(lane + 2)
    query = tl.load(following).to(tl.int64)
    start = tl.load(following + 2)
    end = tl.load(following + 3)
    following += PIECE
    next_query = tl.load(following).to(tl.int64)
    next_start = tl.load(following + 2)
    next_end = tl.load(following + 3)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    slot = tl.load(slots_ptr + start + n, start + n < end, other=0)
    acc = tl.zeros((M, V), tl.float32)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    for _ in range(blocks):
        inside = start + n < end
        k_rows = k_ptr + slot.to(tl.int64)[:, None] * k_slot
        v_rows = v_ptr + slot.to(tl.int64)[:, None] * v_slot
        q0 = tl.load(q_rows + query * q_token + d0[None, :], valid[:, None] & (d0 < D)[None, :], other=0.0)
        k0 = tl.load(k_rows + d0[None, :], inside[:, None] & (d0 < D)[None, :], other=0.0)
        q1 = q0
        if D1:
            d1 = D0 + tl.arange(0, D1)
            q1 = tl.load(
                q_rows + query * q_token + d1[None, :], valid[:, None] & (d1 < D)[None, :], other=0.0
            )
            k1 = tl.load(k_rows + d1[None, :], inside[:, None] & (d1 < D)[None, :], other=0.0)
        if not LATENT:
            value = tl.load(v_rows + v[None, :], inside[:, None] & (v < V_DIM)[None, :], other=0.0)
        # Go on to the next block, of this piece or the next one, and fetch its slots.
        done = start + N >= end
        this = following - PIECE
        this_query = query
        start = tl.where(done, next_start, start + N)
        end = tl.where(done, next_end, end)
        query = tl.where(done, next_query, query)
        following = tl.where(done, following + PIECE, following)
        next_query = tl.load(following).to(tl.int64)
        next_start = tl.load(following + 2)
        next_end = tl.load(following + 3)
        slot = tl.load(slots_ptr + start + n, start + n < end, other=0)

        row_scale = tl.full((M,), 1.0, tl.float32) * scale
        if FLOAT8:
            q0, q1, largest = _fit(q0, q1, D1)
            row_scale *= largest
        scores = tl.dot(q0, tl.trans(k0.to(q0.dtype)), input_precision="ieee")
        if D1:
            scores = tl.dot(q1, tl.trans(k1.to(q0.dtype)), scores, input_precision="ieee")
        weights, fade, top, total = weights_of(scores, row_scale, softcap, inside, top, total, SOFTCAP)
        if LATENT:
            value = k0
        acc = tl.dot(weights.to(q0.dtype), value.to(q0.dtype), acc * fade[:, None], input_precision="ieee")
        if done:
            r = tl.arange(0, ROWS)
            leave(
                _first_rows(acc, M, ROWS), _first_rows(top, M, ROWS), _first_rows(total, M, ROWS), v_scale,
                tl.load(this + 4), this_query, r * 0, kv_head * GROUP + tile + r, tile + r < GROUP,
                out_ptr, part_ptr, sum_ptr, out_token, out_head, Q_HEADS, V_DIM, V,
            )  # fmt: skip
            top = tl.full((M,), float("-inf"), tl.float32)  # what came before fades to nothing


@triton.jit
def _wide(
    q_ptr, k_ptr, v_ptr, out_ptr, slots_ptr, lanes_ptr, pieces_ptr, part_ptr, sum_ptr,
    scale, softcap, v_scale,
    q_token, q_head, k_slot, k_head, v_slot, v_head, out_token, out_head,
    GROUP: tl.constexpr, TILES: tl.constexpr, Q_HEADS: tl.constexpr,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, V_DIM: tl.constexpr, V: tl.constexpr,
    LATENT: tl.constexpr, SOFTCAP: tl.constexpr, FLOAT8: tl.constexpr, OVERLAP: tl.constexpr,
    LANE: tl.constexpr, PIECE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One lane of up to M rows (query, query head) of one KV head."""
    kv_head = (tl.program_id(0) // TILES).to(tl.int64)
    m = tl.program_id(0) % TILES * M + tl.arange(0, M)
    n = tl.arange(0, N)
    d0 = tl.arange(0, D0)
    v = tl.arange(0, V)
    row = m // GROUP
    head = kv_head * GROUP + m % GROUP
    k_ptr += kv_head * k_head
    v_ptr += kv_head * v_head
    lane = lanes_ptr + tl.program_id(1) * LANE
    first = tl.load(lane)
    last = first + tl.load(lane + 1)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    for piece in range(first, last):
        record = pieces_ptr + piece * PIECE
        query = tl.load(record).to(tl.int64)
        rows = tl.load(record + 1)
        begin = tl.load(record + 2)
        end = tl.load(record + 3)
        slot = tl.load(slots_ptr + begin + n, begin + n < end, other=0)
        valid = row < rows
        q_rows = q_ptr + (query + row)[:, None] * q_token + head[:, None] * q_head
        q0 = tl.load(q_rows + d0[None, :], valid[:, None] & (d0 < D)[None, :], other=0.0)
        q1 = q0
        if D1:
            d1 = D0 + tl.arange(0, D1)
            q1 = tl.load(q_rows + d1[None, :], valid[:, None] & (d1 < D)[None, :], other=0.0)
        row_scale = tl.full((M,), 1.0, tl.float32) * scale
        if FLOAT8:
            q0, q1, largest = _fit(q0, q1, D1)
            row_scale *= largest
        acc = tl.zeros((M, V), tl.float32)
        top = tl.full((M,), float("-inf"), tl.float32)
        total = tl.zeros((M,), tl.float32)
        for start in range(begin, end, N):
            inside = start + n < end
            k_rows = k_ptr + slot.to(tl.int64)[:, None] * k_slot
            v_rows = v_ptr + slot.to(tl.int64)[:, None] * v_slot
            slot = tl.load(slots_ptr + start + N + n, start + N + n < end, other=0)
            k0 = tl.load(k_rows + d0[None, :], inside[:, None] & (d0 < D)[None, :], other=0.0).to(q0.dtype)
            scores = tl.dot(q0, tl.trans(k0), input_precision="ieee")
            if D1:
                there = inside[:, None] & (d1 < D)[None, :]
                k1 = tl.load(k_rows + d1[None, :], there, other=0.0).to(q0.dtype)
                scores = tl.dot(q1, tl.trans(k1), scores, input_precision="ieee")
            weights, fade, top, total = weights_of(scores, row_scale, softcap, inside, top, total, SOFTCAP)
            value = k0
            if not LATENT:
                there = inside[:, None] & (v < V_DIM)[None, :]
                value = tl.load(v_rows + v[None, :], there, other=0.0).to(q0.dtype)
            acc = tl.dot(weights.to(q0.dtype), value, acc * fade[:, None], input_precision="ieee")
        leave(
            acc, top, total, v_scale, tl.load(record + 4), query, row, head, valid,
            out_ptr, part_ptr, sum_ptr, out_token, out_head, Q_HEADS, V_DIM, V,
        )  # fmt: skip


@triton.jit
def _merge(
    part_ptr, sum_ptr, out_ptr, records_ptr, q_heads, v_dim, out_token, out_head,
    V: tl.constexpr, RECORD: tl.constexpr, FEW: tl.constexpr, MANY: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One head of one request in pieces. A program is as many warps as hold V elements: they never wait for
    each other, and load up to MANY states before they use the first."""
    record = records_ptr + tl.program_id(1) * RECORD
    query = tl.load(record).to(tl.int64)
    first = tl.load(record + 1)
    count = tl.load(record + 2)
    other = tl.load(record + 3)
    other_count = tl.load(record + 4)
    other_stride = tl.load(record + 5)
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    if query < 0:  # a place in the list that this step does not need
        return
    head = tl.program_id(0)
    if count + other_count <= FEW:
        merged = merge_pieces(
            part_ptr, sum_ptr, head, first, count, other, other_count, other_stride, q_heads, v_dim, V, FEW
        )
    else:
        merged = merge_pieces(
            part_ptr, sum_ptr, head, first, count, other, other_count, other_stride, q_heads, v_dim, V, MANY
        )
    v = tl.arange(0, V)
    place = out_ptr + query * out_token + head.to(tl.int64) * out_head + v
    tl.store(place, merged.to(out_ptr.dtype.element_ty), v < v_dim)


def run_decode(
    plan: DecodePlan,
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor,
    k_scale: float = 1.0,
    v_scale: float = 1.0,
) -> None:
    """Writes the rows of `out` [Σq, hq, dv] that belong to the plan's requests. Arguments as in `run`."""
    spec = plan.spec
    lanes, shared_lanes, pieces, shared_pieces, merges = plan.sections
    group = spec.q_heads // spec.kv_heads
    first = max(16, 1 << (spec.head_dim.bit_length() - 1))  # keys are read as so many elements, then the rest
    rest = max(0, spec.head_dim - first)
    width = max(16, next_power_of_2(spec.v_dim))
    same = v_cache.data_ptr() == k_cache.data_ptr() and v_cache.stride() == k_cache.stride()
    latent = same and spec.v_dim == first
    float8 = k_cache.dtype in FLOAT8 and q.dtype != torch.float32
    scale = spec.scale * k_scale
    overlap = overlapping(q.device)
    cramped = (spec.head_dim > 256 and not latent) or not _roomy(q.device)

    def launch(tile: Tile, rows: int, lanes: Tensor, number: int, pieces: Tensor) -> None:
        """Over pieces of up to so many rows (query, query head)."""
        keys, values = k_cache, v_cache
        if float8 and tile.narrow and (words := as_words(spec, k_cache, v_cache)):
            (keys, values), tile, kernel = words, float8_tile(tile), decode_words
        else:
            tile = tile_at(tile, q.dtype, k_cache.dtype, cramped)
            kernel = _narrow if tile.narrow else _wide
        kernel[(spec.kv_heads * cdiv(rows, tile.rows), number)](
            q, keys, values, out, plan.slots, lanes, pieces, plan.parts, plan.sums,
            scale / spec.softcap if spec.softcap else scale * _LOG2E, (spec.softcap or 1.0) * _LOG2E, v_scale,
            *q.stride()[:2], *keys.stride()[:2], *values.stride()[:2], *out.stride()[:2],
            GROUP=group, TILES=cdiv(rows, tile.rows), Q_HEADS=spec.q_heads,
            D=spec.head_dim, D0=first, D1=max(16, next_power_of_2(rest)) if rest else 0,
            V_DIM=spec.v_dim, V=width, LATENT=latent, SOFTCAP=spec.softcap is not None,
            FLOAT8=_MANTISSA.get(k_cache.dtype, 0) if float8 else 0,
            LANE=LANE, PIECE=PIECE, M=tile.rows, N=tile.tokens,
            ROWS=min(tile.rows, next_power_of_2(group)),
            num_warps=tile.warps, num_stages=tile.stages, **overlap,
        )  # fmt: skip

    if plan.shared_lanes:
        launch(plan.shared_tile, plan.shared_tile.rows, shared_lanes, plan.shared_lanes, shared_pieces)
    launch(plan.tile, group, lanes, plan.lanes, pieces)
    _merge[(spec.q_heads, plan.merges)](
        plan.parts, plan.sums, out, merges, spec.q_heads, spec.v_dim, *out.stride()[:2],
        V=width, RECORD=MERGE, FEW=4, MANY=plan.tuning.merged, num_warps=max(1, width // 128),
        **overlapping(q.device, spec.q_heads * plan.merges),
    )  # fmt: skip


@cache
def _roomy(device: torch.device) -> bool:
    """Whether a program may have the shared memory that the widest tiles need."""
    if device.type != "cuda":
        return True
    properties: Any = torch.cuda.get_device_properties(device)
    return bool(properties.shared_memory_per_block_optin >= _ROOM)
