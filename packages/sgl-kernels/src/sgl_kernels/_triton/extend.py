# SPDX-License-Identifier: Apache-2.0
"""Attention of requests with several queries over paged keys and values.

A program holds a tile of one KV head's queries, that of all query heads which share it, in registers, walks
over the tokens they see in blocks, and keeps the running maximum and sum of the softmax (Dao,
"FlashAttention-2", 2023). Blocks that every query of the tile sees are not masked.

Where products cost far more than reading the cache, keys and values are first gathered into a contiguous
scratch, in q's dtype: the walk then follows no slots and widens no float8. The plan says which way it takes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton import extend_hopper
from sgl_kernels._triton.extend_plan import PAD, RECORD, ExtendPlan, plan_extend, supports_extend
from sgl_kernels._triton.sizes import cdiv, next_power_of_2
from sgl_kernels._triton.softcap import tanh_of
from sgl_kernels.attention.protocol import AttentionSpec


class Tile(NamedTuple):
    """What a program does: `rows` of (query, query head of the KV head) against `tokens` at a time."""

    rows: int
    tokens: int
    warps: int
    stages: int


_LOG2E = 1.4426950408889634
_GATHER_ELEMENTS, _GATHER_WIDTH = 4096, 1024  # a program of the gather copies at once; of a row


@triton.jit
def _scores(
    q0, q1, k0, k1, tokens, first_seen, last_seen, inner,
    SOFTCAP: tl.constexpr, TAIL: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """[rows, tokens], -inf where a row does not see a token; with a soft cap tanh(product * inner)."""
    scores = tl.dot(q0, tl.trans(k0), input_precision=PRECISION)
    if TAIL:
        scores = tl.dot(q1, tl.trans(k1), scores, input_precision=PRECISION)
    if SOFTCAP:
        scores = tanh_of(scores, inner)
    if MASKED:
        seen = (tokens[None, :] >= first_seen[:, None]) & (tokens[None, :] <= last_seen[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    return scores


@triton.jit
def _walk(
    acc0, acc1, top, total, q0, q1, k_ptr, v_ptr, slot_ptr, base, start, stop, kv_len, first_seen, last_seen,
    k_slot, v_slot, inner, outer,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, DV: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
    SOFTCAP: tl.constexpr, PAGED: tl.constexpr, LATENT: tl.constexpr, PRECISION: tl.constexpr,
    MASKED: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Takes tokens [start, stop) of a request into the state; not MASKED: all are seen by all rows.

    A weight is exp2(outer * score); `top` is in units of scores.
    """
    lane = tl.arange(0, N)
    d0 = tl.arange(0, D0)
    v0 = tl.arange(0, V0)
    d1 = D0 + tl.arange(0, D1)
    v1 = V0 + tl.arange(0, V1)
    for block in range(start, stop, N):
        tokens = block + lane
        inside = tokens < kv_len
        if PAGED:
            if MASKED:
                rows = tl.load(slot_ptr + base + tokens, inside, other=0).to(tl.int64)
            else:
                rows = tl.load(slot_ptr + base + tokens).to(tl.int64)
        else:
            rows = base.to(tl.int64) + tokens
        k_rows = k_ptr + rows[:, None] * k_slot
        v_rows = v_ptr + rows[:, None] * v_slot
        if MASKED:
            k0 = tl.load(k_rows + d0[None, :], inside[:, None] & (d0 < D)[None, :], other=0.0).to(q0.dtype)
        elif D0 > D:
            k0 = tl.load(k_rows + d0[None, :], (d0 < D)[None, :], other=0.0).to(q0.dtype)
        else:
            k0 = tl.load(k_rows + d0[None, :]).to(q0.dtype)
        k1 = k0
        if D > D0:
            k1 = tl.load(k_rows + d1[None, :], inside[:, None] & (d1 < D)[None, :], other=0.0).to(q0.dtype)
        scores = _scores(
            q0, q1, k0, k1, tokens, first_seen, last_seen, inner, SOFTCAP, D > D0, MASKED, PRECISION
        )
        new_top = tl.maximum(top, tl.max(scores, 1))
        # A row may have seen nothing yet: its weights are exp2(-inf - 0) = 0, not NaN.
        pivot = tl.where(new_top == float("-inf"), 0.0, new_top) if MASKED else new_top
        weights = tl.exp2(scores * outer - (pivot * outer)[:, None])
        rescale = tl.exp2((top - pivot) * outer)
        total = total * rescale + tl.sum(weights, 1)
        top = new_top
        acc0 *= rescale[:, None]
        narrow = weights.to(q0.dtype)
        if LATENT:
            acc0 = tl.dot(narrow, k0, acc0, input_precision=PRECISION)
        else:
            if MASKED:
                values = tl.load(v_rows + v0[None, :], inside[:, None] & (v0 < DV)[None, :], other=0.0)
            elif V0 > DV:
                values = tl.load(v_rows + v0[None, :], (v0 < DV)[None, :], other=0.0)
            else:
                values = tl.load(v_rows + v0[None, :])
            acc0 = tl.dot(narrow, values.to(q0.dtype), acc0, input_precision=PRECISION)
            if DV > V0:
                more = tl.load(v_rows + v1[None, :], inside[:, None] & (v1 < DV)[None, :], other=0.0)
                acc1 *= rescale[:, None]
                acc1 = tl.dot(narrow, more.to(q0.dtype), acc1, input_precision=PRECISION)
    return acc0, acc1, top, total


@triton.jit
def _attend(
    tile_ptr, slot_ptr, q_ptr, k_ptr, v_ptr, out_ptr,
    q_token, q_head, k_slot, k_head, v_slot, v_head, out_token, out_head, inner, outer, v_scale,
    GROUP: tl.constexpr, SHARE: tl.constexpr, D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr,
    DV: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, WINDOW: tl.constexpr, SOFTCAP: tl.constexpr,
    CAUSAL: tl.constexpr, PAGED: tl.constexpr, LATENT: tl.constexpr, PRECISION: tl.constexpr,
    STRIDE: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    tile = tile_ptr + tl.program_id(0) * STRIDE
    head = tl.program_id(1).to(tl.int64)
    first_query = tl.load(tile)
    q_len = tl.load(tile + 1)
    base = tl.load(tile + 2)
    kv_len = tl.load(tile + 3)
    first_row = tl.load(tile + 4) + tl.program_id(2) * M
    if first_row >= q_len * GROUP:  # a place in the list that this step does not need has no queries
        return
    k_ptr += head // SHARE * k_head
    v_ptr += head // SHARE * v_head

    row = first_row + tl.arange(0, M)
    query = row // GROUP
    valid = query < q_len
    token = (first_query + query).to(tl.int64)
    q_head_index = head * GROUP + row % GROUP
    d0 = tl.arange(0, D0)
    d1 = D0 + tl.arange(0, D1)
    q_rows = q_ptr + token[:, None] * q_token + q_head_index[:, None] * q_head
    q0 = tl.load(q_rows + d0[None, :], valid[:, None] & (d0 < D)[None, :], other=0.0)
    q1 = q0
    if D > D0:
        q1 = tl.load(q_rows + d1[None, :], valid[:, None] & (d1 < D)[None, :], other=0.0)

    # Tokens [low, high) are seen by some row, [all_low, all_high) by all; rows beyond q_len see what the last
    # query sees.
    prefix = kv_len - q_len
    position = prefix + tl.minimum(query, q_len - 1)
    first_position = prefix + first_row // GROUP
    last_position = prefix + tl.minimum((first_row + M - 1) // GROUP, q_len - 1)
    if CAUSAL:
        last_seen = position
        high = last_position + 1
        all_high = (first_position + 1) // N * N
    else:
        last_seen = tl.full((M,), 0, tl.int32) + (kv_len - 1)
        high = kv_len
        all_high = kv_len // N * N
    if WINDOW > 0:
        first_seen = position - (WINDOW - 1)
        low = tl.maximum(first_position - (WINDOW - 1), 0) // N * N
        all_low = (tl.maximum(last_position - (WINDOW - 1), 0) + N - 1) // N * N
        all_low = tl.minimum(all_low, (high + N - 1) // N * N)
        all_high = tl.maximum(all_high, all_low)
    else:
        first_seen = tl.full((M,), 0, tl.int32)

    acc0 = tl.zeros((M, V0), tl.float32)
    acc1 = tl.zeros((M, V1), tl.float32)
    top = tl.full((M,), float("-inf"), tl.float32)
    total = tl.zeros((M,), tl.float32)
    if WINDOW > 0:
        acc0, acc1, top, total = _walk(
            acc0, acc1, top, total, q0, q1, k_ptr, v_ptr, slot_ptr, base, low, tl.minimum(all_low, high),
            kv_len, first_seen, last_seen, k_slot, v_slot, inner, outer,
            D, D0, D1, DV, V0, V1, SOFTCAP, PAGED, LATENT, PRECISION, True, N,
        )  # fmt: skip
        acc0, acc1, top, total = _walk(
            acc0, acc1, top, total, q0, q1, k_ptr, v_ptr, slot_ptr, base, all_low, all_high,
            kv_len, first_seen, last_seen, k_slot, v_slot, inner, outer,
            D, D0, D1, DV, V0, V1, SOFTCAP, PAGED, LATENT, PRECISION, False, N,
        )  # fmt: skip
    else:
        acc0, acc1, top, total = _walk(
            acc0, acc1, top, total, q0, q1, k_ptr, v_ptr, slot_ptr, base, 0, all_high,
            kv_len, first_seen, last_seen, k_slot, v_slot, inner, outer,
            D, D0, D1, DV, V0, V1, SOFTCAP, PAGED, LATENT, PRECISION, False, N,
        )  # fmt: skip
    acc0, acc1, top, total = _walk(
        acc0, acc1, top, total, q0, q1, k_ptr, v_ptr, slot_ptr, base, all_high, high,
        kv_len, first_seen, last_seen, k_slot, v_slot, inner, outer,
        D, D0, D1, DV, V0, V1, SOFTCAP, PAGED, LATENT, PRECISION, True, N,
    )  # fmt: skip

    factor = v_scale / total
    v0 = tl.arange(0, V0)
    out_rows = out_ptr + token[:, None] * out_token + q_head_index[:, None] * out_head
    out = (acc0 * factor[:, None]).to(out_ptr.dtype.element_ty)
    tl.store(out_rows + v0[None, :], out, valid[:, None] & (v0 < DV)[None, :])
    if DV > V0:
        v1 = V0 + tl.arange(0, V1)
        out = (acc1 * factor[:, None]).to(out_ptr.dtype.element_ty)
        tl.store(out_rows + v1[None, :], out, valid[:, None] & (v1 < DV)[None, :])


@triton.jit(do_not_specialize=["tokens"])
def _gather(
    slot_ptr, run_ptr, k_ptr, v_ptr, k_out, v_out, tokens, k_slot, k_head, v_slot, v_head,
    HEADS: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr,
    RUNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Tokens side by side, in another dtype if need be: out [tokens, HEADS, D]; zeros where a slot is -1, and
    what was there where it is less, or where the tokens belong to a block that is a run."""
    first = tl.program_id(0) * ROWS
    if RUNS and tl.load(run_ptr + first // BLOCK) >= 0:
        return
    token = first + tl.arange(0, ROWS)
    slot = tl.load(slot_ptr + token, token < tokens, other=-2).to(tl.int64)
    inside = slot >= -1
    owned = (slot >= 0)[:, None]
    to = token.to(tl.int64)
    for start in tl.static_range(0, HEADS * D, WIDTH):
        column = start + tl.arange(0, WIDTH)
        mask = inside[:, None] & (column < HEADS * D)[None, :]
        source = slot[:, None] * k_slot + (column // D).to(tl.int64)[None, :] * k_head + (column % D)[None, :]
        x = tl.load(k_ptr + source, mask & owned, other=0.0)
        tl.store(k_out + to[:, None] * (HEADS * D) + column[None, :], x.to(k_out.dtype.element_ty), mask)
    for start in tl.static_range(0, HEADS * DV, WIDTH):
        column = start + tl.arange(0, WIDTH)
        mask = inside[:, None] & (column < HEADS * DV)[None, :]
        source = slot[:, None] * v_slot + (column // DV).to(tl.int64)[None, :] * v_head
        x = tl.load(v_ptr + source + (column % DV)[None, :], mask & owned, other=0.0)
        tl.store(v_out + to[:, None] * (HEADS * DV) + column[None, :], x.to(v_out.dtype.element_ty), mask)


def run_extend(
    plan: ExtendPlan, q: Tensor, k_cache: Tensor, v_cache: Tensor, out: Tensor, k_scale: float, v_scale: float
) -> None:
    """Writes the rows of out [Σq, hq, dv] that belong to the plan's requests, and no others.

    Otherwise as `AttentionBackend.run`, whose arguments have been checked.
    """
    spec = plan.spec
    if not len(plan.tiles):
        return
    keys, values = k_cache, v_cache
    latent = _is_latent(spec, k_cache, v_cache)
    scale = spec.scale * k_scale
    softcap = spec.softcap is not None
    inner = scale / spec.softcap if spec.softcap is not None else 1.0
    outer = _LOG2E * (spec.softcap if spec.softcap is not None else scale)
    if plan.way == "hopper" and q.dtype != torch.float32:
        in_place = extend_hopper.reads_runs(q, k_cache) and extend_hopper.reads_runs(q, v_cache)
        keys, values = gather(plan, k_cache, v_cache, q.dtype, runs=in_place)
        extend_hopper.attend(
            plan.tiles, q, keys, values, out, inner=inner, outer=outer, v_scale=v_scale, causal=spec.causal,
            window=spec.window, softcap=softcap, direct=(k_cache, v_cache, plan.runs) if in_place else None,
        )  # fmt: skip
        return
    if plan.way == "gathered":
        keys, values = gather(plan, k_cache, v_cache, q.dtype, latent=latent)
    d0, d1 = _split(spec.head_dim)
    v0, v1 = _split(spec.v_dim)
    tile = tile_for(spec, plan.rows, q.dtype)
    grid = (plan.tiles.shape[0], spec.q_heads // plan.packed, plan.rows // tile.rows)
    _attend[grid](
        plan.tiles, plan.slots, q, keys, values, out,
        q.stride(0), q.stride(1), keys.stride(0), keys.stride(1), values.stride(0), values.stride(1),
        out.stride(0), out.stride(1),
        inner, outer, v_scale,
        GROUP=plan.packed, SHARE=spec.q_heads // spec.kv_heads // plan.packed,
        D=spec.head_dim, D0=d0, D1=d1, DV=spec.v_dim, V0=v0, V1=v1, WINDOW=spec.window or 0, SOFTCAP=softcap,
        CAUSAL=spec.causal, PAGED=plan.way != "gathered",
        LATENT=latent and v0 == spec.v_dim == d0, PRECISION="tf32x3" if q.dtype == torch.float32 else "tf32",
        STRIDE=RECORD, M=tile.rows, N=tile.tokens, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip


def gather(
    plan: ExtendPlan,
    k_cache: Tensor,
    v_cache: Tensor,
    dtype: torch.dtype,
    *,
    latent: bool = False,
    runs: bool = False,
) -> tuple[Tensor, Tensor]:
    """The tokens of a plan side by side: [n, hk, d] and [n, hk, dv], zeros where a request is filled up.

    latent: the values are the first elements of the keys, and a view of them. runs: blocks that are runs are
    left out.
    """
    (_, heads, dim), v_dim = k_cache.shape, v_cache.shape[2]
    # In a graph there must be room for what the plan is refilled with.
    captured = k_cache.is_cuda and torch.cuda.is_current_stream_capturing()
    count = plan.slots.shape[0] if captured else max(1, plan.live)
    keys = torch.empty(count, heads, dim, dtype=dtype, device=k_cache.device)
    values = keys[..., :v_dim] if latent else keys.new_empty(count, heads, v_dim)
    width = min(_GATHER_WIDTH, next_power_of_2(heads * max(dim, v_dim)))
    rows = max(1, _GATHER_ELEMENTS // width)
    _gather[(cdiv(count, rows),)](
        plan.slots, plan.runs, k_cache, v_cache, keys, values, count,
        k_cache.stride(0), k_cache.stride(1), v_cache.stride(0), v_cache.stride(1),
        HEADS=heads, D=dim, DV=0 if latent else v_dim, ROWS=rows, WIDTH=width, RUNS=runs, BLOCK=PAD,
        num_warps=4,
    )  # fmt: skip
    return keys, values


def tile_for(spec: AttentionSpec, rows: int, dtype: torch.dtype) -> Tile:
    """The tile measured to be fastest, of at most as many rows; float32 is three products of tf32."""
    widest = max(spec.head_dim, spec.v_dim)
    if dtype == torch.float32:
        return Tile(min(rows, 16), 16, 4, 1) if widest > 256 else Tile(min(rows, 32), 32, 4, 1)
    if widest > 256:
        return Tile(rows, 64, 8, 2) if rows == 64 else Tile(rows, 32, 4, 2)
    return Tile(rows, 64, 8 if rows > 64 else 4, 3 if widest <= 128 else 2)


def _split(width: int) -> tuple[int, int]:
    """A head as two blocks of powers of two, 192 as 128 + 64; the second is not used where one will do."""
    first = next_power_of_2(width)
    if first == width or width < 32:
        return max(16, first), 16
    return first // 2, max(16, next_power_of_2(width - first // 2))


def _is_latent(spec: AttentionSpec, k_cache: Tensor, v_cache: Tensor) -> bool:
    """Whether the values are the first elements of the keys in memory."""
    return (
        k_cache.data_ptr() == v_cache.data_ptr()
        and spec.v_dim <= spec.head_dim
        and k_cache.stride() == v_cache.stride()
        and k_cache.dtype == v_cache.dtype
    )


__all__ = ["ExtendPlan", "plan_extend", "run_extend", "supports_extend"]
