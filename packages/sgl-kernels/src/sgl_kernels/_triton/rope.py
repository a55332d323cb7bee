# SPDX-License-Identifier: Apache-2.0
"""Rotation of heads, and around it their norm and the way into the cache, in one pass.

A program has a few heads of one token: of q, of k, or of v, which is only moved. The angles of the token are
read once for all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.kv import MOST, stored
from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sizes import cdiv, next_power_of_2


class Tile(NamedTuple):
    """heads: of a program; warps: of a program."""

    heads: int
    warps: int


# Measured to be fastest with few heads in all, and with many.
SMALL, LARGE = Tile(16, 4), Tile(8, 1)
_FEW = 1 << 17  # heads of q, k and v


@triton.jit
def _turn(
    source, target, ours, cos_ptr, sin_ptr, position, length, weight_ptr, eps, scale,
    DIM: tl.constexpr, ROTARY: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr,
    INTERLEAVED: tl.constexpr, NORM: tl.constexpr, ONE_MORE: tl.constexpr, MOST: tl.constexpr,
    HEADS: tl.constexpr,
):  # fmt: skip
    """source, target [HEADS, 1]: where the heads begin; ours [HEADS, 1]: which of them there are.

    HALF and REST: powers of two that hold half of the rotated dimensions, and those that are not rotated (0:
    they stay where they are).
    """
    half = tl.arange(0, HALF)[None, :]
    paired = half < ROTARY // 2
    both = tl.arange(0, 2 * HALF)[None, :]
    if INTERLEAVED:
        x = tl.load(source + both, ours & (both < ROTARY), other=0.0)
        first, second = tl.split(tl.reshape(x, (HEADS, HALF, 2)))
        one, other = 2 * half, 2 * half + 1
    else:
        first = tl.load(source + half, ours & paired, other=0.0)
        second = tl.load(source + ROTARY // 2 + half, ours & paired, other=0.0)
        one, other = half, ROTARY // 2 + half
    first, second = first.to(tl.float32), second.to(tl.float32)
    if REST:
        behind = ROTARY + tl.arange(0, REST)[None, :]
        rest = tl.load(source + behind, ours & (behind < DIM), other=0.0).to(tl.float32)
    known = paired & (position >= 0) & (position < length)
    cos = tl.load(cos_ptr + position * ROTARY + one, known, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + position * ROTARY + other, known, other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(first * first + second * second, 1)
        if REST:
            squares += tl.sum(rest * rest, 1)
        factor = tl.rsqrt(squares / DIM + eps)[:, None]
        more = 1.0 if ONE_MORE else 0.0
        first *= factor * (tl.load(weight_ptr + one, paired, other=0.0).to(tl.float32) + more)
        second *= factor * (tl.load(weight_ptr + other, paired, other=0.0).to(tl.float32) + more)
        if REST:
            rest *= factor * (tl.load(weight_ptr + behind, behind < DIM, other=0.0).to(tl.float32) + more)
    kind = target.dtype.element_ty
    turned = stored(first * cos - second * sin, scale, MOST).to(kind)
    partner = stored(second * cos + first * sin, scale, MOST).to(kind)
    if INTERLEAVED:
        x = tl.reshape(tl.join(turned, partner), (HEADS, 2 * HALF))
        tl.store(target + both, x, ours & (both < ROTARY))
    else:
        tl.store(target + half, turned, ours & paired)
        tl.store(target + ROTARY // 2 + half, partner, ours & paired)
    if REST:
        tl.store(target + behind, stored(rest, scale, MOST).to(kind), ours & (behind < DIM))


@triton.jit(do_not_specialize=["length", "slots"])
def _rope(
    q_ptr, k_ptr, v_ptr, k_cache_ptr, v_cache_ptr, cos_ptr, sin_ptr, positions_ptr, slots_ptr,
    q_weight_ptr, k_weight_ptr, length, slots, eps, k_scale, v_scale, q_stride, q_head, k_stride, k_head,
    v_stride, v_head, k_cache_stride, k_cache_head, v_cache_stride, v_cache_head,
    Q_HEADS: tl.constexpr, K_HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    ROTARY: tl.constexpr, HALF: tl.constexpr, REST: tl.constexpr, K_REST: tl.constexpr,
    V_COLUMNS: tl.constexpr, POSITIONS: tl.constexpr, INTERLEAVED: tl.constexpr, NORM: tl.constexpr,
    ONE_MORE: tl.constexpr, STORE: tl.constexpr, MOST: tl.constexpr, HEADS: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    Q_BLOCKS: tl.constexpr = (Q_HEADS + HEADS - 1) // HEADS
    K_BLOCKS: tl.constexpr = (K_HEADS + HEADS - 1) // HEADS
    BLOCKS: tl.constexpr = Q_BLOCKS + (2 * K_BLOCKS if V_DIM else K_BLOCKS)
    block = tl.program_id(0) % BLOCKS
    token = (tl.program_id(0) // BLOCKS).to(tl.int64)
    position = token
    if POSITIONS:
        position = tl.load(positions_ptr + token).to(tl.int64)
    each = tl.arange(0, HEADS)[:, None]
    if block < Q_BLOCKS:
        head = block * HEADS + each
        at = q_ptr + token * q_stride + head * q_head
        _turn(
            at, at, head < Q_HEADS, cos_ptr, sin_ptr, position, length, q_weight_ptr, eps, 1.0,
            DIM, ROTARY, HALF, REST, INTERLEAVED, NORM, ONE_MORE, 0, HEADS,
        )  # fmt: skip
    elif K_BLOCKS:
        head = (block - Q_BLOCKS) % K_BLOCKS * HEADS + each
        ours = head < K_HEADS
        if STORE:
            slot = tl.load(slots_ptr + token).to(tl.int64)
            ours &= (slot >= 0) & (slot < slots)
        if block < Q_BLOCKS + K_BLOCKS:
            at = k_ptr + token * k_stride + head * k_head
            place = at
            if STORE:
                place = k_cache_ptr + slot * k_cache_stride + head * k_cache_head
            _turn(
                at, place, ours, cos_ptr, sin_ptr, position, length, k_weight_ptr, eps, k_scale,
                DIM, ROTARY, HALF, K_REST, INTERLEAVED, NORM, ONE_MORE, MOST, HEADS,
            )  # fmt: skip
        elif V_DIM:
            column = tl.arange(0, V_COLUMNS)[None, :]
            inside = ours & (column < V_DIM)
            value = tl.load(v_ptr + token * v_stride + head * v_head + column, inside, other=0.0)
            if MOST:
                value = stored(value.to(tl.float32), v_scale, MOST)
            to = v_cache_ptr + slot * v_cache_stride + head * v_cache_head + column
            tl.store(to, value.to(v_cache_ptr.dtype.element_ty), inside)


def apply_rope(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    positions: Tensor | None,
    interleaved: bool,
    tile: Tile | None = None,
) -> None:
    _launch(q, k, None, cos, sin, None, None, None, positions, interleaved, tile=tile)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None, interleaved: bool) -> None:
    _launch(x, x[:, :0], None, cos, sin, None, None, None, positions, interleaved)


def rope_and_store_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    k_cache: Tensor,
    v_cache: Tensor | None,
    slots: Tensor,
    *,
    positions: Tensor | None,
    interleaved: bool,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    gemma: bool,
    k_scale: float,
    v_scale: float,
    tile: Tile | None = None,
) -> None:
    _launch(
        q, k, v, cos, sin, k_cache, v_cache, slots, positions, interleaved, q_weight, k_weight, eps, gemma,
        k_scale, v_scale, tile,
    )  # fmt: skip


def _launch(
    q, k, v, cos, sin, k_cache, v_cache, slots, positions, interleaved,
    q_weight=None, k_weight=None, eps=0.0, gemma=False, k_scale=1.0, v_scale=1.0, tile=None,
):  # fmt: skip
    """Without k_cache the keys are rotated where they are."""
    tokens, q_heads, dim = q.shape
    k_heads, rotary, v_dim = k.shape[1], cos.shape[1], 0 if v is None else v.shape[-1]
    tile = tile or (SMALL if tokens * (q_heads + 2 * k_heads) <= _FEW else LARGE)
    heads = min(tile.heads, next_power_of_2(max(1, q_heads, k_heads)))
    blocks = cdiv(q_heads, heads) + cdiv(k_heads, heads) * (2 if v_dim else 1)
    store, norm = k_cache is not None, q_weight is not None
    if not tokens * blocks * dim or not (rotary or store or norm):
        return
    none = (0, 0)
    caches = [none if cache is None else cache.stride()[:2] for cache in (v, k_cache, v_cache)]
    rest = next_power_of_2(dim - rotary) if dim > rotary else 0
    _rope[(tokens * blocks,)](
        q, k, v, k_cache, v_cache, cos, sin, positions, slots, q_weight, k_weight,
        len(cos), len(k_cache) if store else 0, eps, 1.0 / k_scale, 1.0 / v_scale,
        *q.stride()[:2], *k.stride()[:2], *caches[0], *caches[1], *caches[2],
        Q_HEADS=q_heads, K_HEADS=k_heads, DIM=dim, V_DIM=v_dim, ROTARY=rotary,
        HALF=next_power_of_2(max(1, rotary // 2)), REST=rest if norm else 0,
        K_REST=rest if norm or store else 0, V_COLUMNS=next_power_of_2(max(1, v_dim)),
        POSITIONS=positions is not None, INTERLEAVED=interleaved, NORM=norm, ONE_MORE=gemma, STORE=store,
        MOST=MOST.get(k_cache.dtype, 0) if store else 0, HEADS=heads, num_warps=tile.warps,
        **overlapping(q.device, tokens * blocks),
    )  # fmt: skip
