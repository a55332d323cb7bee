# SPDX-License-Identifier: Apache-2.0
"""Extend on Hopper: one warp loads blocks of keys and values, two warpgroups multiply.

The shape is that of Shah et al., "FlashAttention-3", 2024, written in Gluon. A program lives as long as the
GPU has work and takes tiles of 128 queries of one head from a list. Its loading warp keeps a ring of blocks
filled by bulk copies. Each warpgroup holds 64 queries and hides its softmax: the products with the keys of
block j and with the values of block j - 1 run together, and one warpgroup's run during the other's softmax.

A bulk copy wants tokens side by side. Blocks whose slots follow one another are read where they are, the
others from a scratch into which `extend` has gathered them.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from sgl_kernels._triton.softcap import tanh_of

ROWS = 128  # queries of a tile
TOKENS = 128  # of a block; half as many of wide heads
_STAGES = 2  # blocks of keys, and as many of values, in shared memory
_REGISTERS, _LOADER_REGISTERS = 240, 24  # of a thread; 2 x 240 + 24 is what the register file has for three


@gluon.jit
def _item(
    tiles, index, HEADS: gl.constexpr, CAUSAL: gl.constexpr, WINDOW: gl.constexpr, N: gl.constexpr,
):  # fmt: skip
    """A tile and its head.

    First query, queries from there on, first token, head; the first block, the first and the one after the
    last that need no mask, the one after the last; the last token that the tile's first query sees.
    """
    tile = tiles + (index // HEADS) * 8
    head = index % HEADS
    q_begin = gl.load(tile)
    q_len = gl.load(tile + 1)
    kv_begin = gl.load(tile + 2)
    kv_len = gl.load(tile + 3)
    row = gl.load(tile + 4)
    left = q_len - row
    seen = kv_len - left
    first = 0
    whole = 0
    if CAUSAL:
        last_seen = seen + gl.minimum(left, 128) - 1
        whole_end = (seen + 1) // N
        if WINDOW > 0:
            first = gl.maximum(seen - (WINDOW - 1), 0) // N
            whole = (gl.maximum(last_seen - (WINDOW - 1), 0) + N - 1) // N
    else:
        seen = kv_len - 1
        last_seen = seen
        whole_end = kv_len // N
    return q_begin + row, left, kv_begin, head, first, whole, whole_end, last_seen // N + 1, seen


@gluon.jit
def _index(turn, programs):
    """The item of a program's turn. Tiles are sorted by work: every other round runs backwards, which evens
    out the sums."""
    me = gl.program_id(0)
    return turn * programs + gl.where(turn % 2 == 0, me, programs - 1 - me)


@gluon.jit
def _load_block(desc, cache, row, slot, column, shared, full, free, phase, DIRECT: gl.constexpr):
    """Fetches a block when its place is free: from where its slots are, or from the scratch if that is -1."""
    mbarrier.wait(free, phase)
    mbarrier.expect(full, desc.block_type.nbytes)
    if DIRECT:  # one of two copies, or the barrier would wait for ever
        tma.async_copy_global_to_shared(cache, [slot, column], full, shared, pred=slot >= 0)
        tma.async_copy_global_to_shared(desc, [row, column], full, shared, pred=slot < 0)
    else:
        tma.async_copy_global_to_shared(desc, [row, column], full, shared)


@gluon.jit
def _load(
    tiles, runs, items, programs, q_desc, k_desc, v_desc, k_cache, v_cache,
    q_s, k_s, v_s, q_full, q_free, k_full, k_free, v_full, v_free,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, DV: gl.constexpr, CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr, DIRECT: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The loading warp."""
    count = 0  # blocks so far
    done = 0  # tiles so far
    for turn in range((items + programs - 1) // programs):
        index = _index(turn, programs)
        if index < items:
            q_row, left, kv_begin, head, first, _whole, _whole_end, end, _seen = _item(
                tiles, index, HEADS, CAUSAL, WINDOW, N
            )
            if left > 0:
                mbarrier.wait(q_free, (done & 1) ^ 1)
                mbarrier.expect(q_full, 2 * q_desc.block_type.nbytes)
                tma.async_copy_global_to_shared(q_desc, [q_row, head * D], q_full, q_s.index(0))
                tma.async_copy_global_to_shared(q_desc, [q_row + 64, head * D], q_full, q_s.index(1))
                done += 1
                k_column = head // GROUP * D
                v_column = head // GROUP * DV
                for block in range(first, end):
                    stage = count % STAGES
                    phase = ((count // STAGES) & 1) ^ 1
                    row = kv_begin + block * N
                    if DIRECT:
                        slot = gl.load(runs + row // N)
                    else:
                        slot = -1
                    _load_block(
                        k_desc, k_cache, row, slot, k_column, k_s.index(stage), k_full.index(stage),
                        k_free.index(stage), phase, DIRECT,
                    )  # fmt: skip
                    _load_block(
                        v_desc, v_cache, row, slot, v_column, v_s.index(stage), v_full.index(stage),
                        v_free.index(stage), phase, DIRECT,
                    )  # fmt: skip
                    count += 1


@gluon.jit
def _weigh(
    s, top, total, inner, outer, block, first_seen, last_seen,
    SOFTCAP: gl.constexpr, WINDOW: gl.constexpr, MASKED: gl.constexpr, N: gl.constexpr, S: gl.constexpr,
):  # fmt: skip
    """Scores to weights: the weights, what the sums so far shrink by, the new maximum and sum."""
    if SOFTCAP:
        s = tanh_of(s, inner)
    if MASKED:
        tokens = block * N + gl.arange(0, N, gl.SliceLayout(0, S))
        seen = tokens[None, :] <= last_seen[:, None]
        if WINDOW > 0:
            seen = seen & (tokens[None, :] >= first_seen[:, None])
        s = gl.where(seen, s, float("-inf"))
    new_top = gl.maximum(top, gl.max(s, 1))
    pivot = new_top
    if MASKED and WINDOW > 0:  # a row may have seen nothing yet: its weights are exp2(-inf - 0) = 0, not NaN
        pivot = gl.where(new_top == float("-inf"), 0.0, new_top)
    weights = gl.exp2(s * outer - (pivot * outer)[:, None])
    shrink = gl.exp2((top - pivot) * outer)
    total = total * shrink + gl.sum(weights, 1)
    return weights, shrink, new_top, total


@gluon.jit
def _advance(
    o, p, top, total, q, k_s, v_s, k_full, k_free, v_full, v_free, count,
    inner, outer, block, first_seen, last_seen,
    SOFTCAP: gl.constexpr, WINDOW: gl.constexpr, MASKED: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr,
    S: gl.constexpr, R: gl.constexpr, P: gl.constexpr,
):  # fmt: skip
    """Block `block`, the `count`th: its scores beside the values of the block before it."""
    stage = count % STAGES
    before = (count - 1) % STAGES
    mbarrier.wait(k_full.index(stage), (count // STAGES) & 1)
    nothing = gl.zeros([64, N], gl.float32, S)
    s = warpgroup_mma(q, k_s.index(stage).permute((1, 0)), nothing, use_acc=False, is_async=True)
    mbarrier.wait(v_full.index(before), ((count - 1) // STAGES) & 1)
    o = warpgroup_mma(p, v_s.index(before), o, is_async=True)
    s = warpgroup_mma_wait(1, deps=(s,))
    mbarrier.arrive(k_free.index(stage), count=1)
    weights, shrink, top, total = _weigh(
        s, top, total, inner, outer, block, first_seen, last_seen, SOFTCAP, WINDOW, MASKED, N, S
    )
    o = warpgroup_mma_wait(0, deps=(o,))
    mbarrier.arrive(v_free.index(before), count=1)
    o = o * gl.convert_layout(shrink, gl.SliceLayout(1, R))[:, None]
    p = gl.convert_layout(weights.to(q.dtype), P)
    return o, p, top, total


@gluon.jit
def _multiply(
    tiles, items, programs, out_ptr, out_token, out_head, inner, outer, v_scale,
    q_s, k_s, v_s, q_full, q_free, k_full, k_free, v_full, v_free,
    WHICH: gl.constexpr, HEADS: gl.constexpr, DV: gl.constexpr, CAUSAL: gl.constexpr, WINDOW: gl.constexpr,
    SOFTCAP: gl.constexpr, N: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """A multiplying warpgroup: queries 64 * WHICH … of every tile."""
    S: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, N, 16])  # scores
    R: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, DV, 16])  # results
    P: gl.constexpr = gl.DotOperandLayout(0, R, 2)  # weights
    W: gl.constexpr = gl.BlockedLayout([1, 8], [256 // DV, DV // 8], [4, 1], [1, 0])  # written
    q = q_s.index(WHICH)
    count = 0
    done = 0
    for turn in range((items + programs - 1) // programs):
        index = _index(turn, programs)
        if index < items:
            q_row, left, _kv_begin, head, first, whole, whole_end, end, seen = _item(
                tiles, index, HEADS, CAUSAL, WINDOW, N
            )
            if left > 0:
                last_seen = gl.zeros([64], gl.int32, gl.SliceLayout(1, S)) + seen
                if CAUSAL:
                    # Beyond the request's last query: what that one sees, so that there is always something.
                    row = WHICH * 64 + gl.arange(0, 64, gl.SliceLayout(1, S))
                    last_seen += gl.minimum(row, left - 1)
                first_seen = last_seen - (WINDOW - 1)
                mbarrier.wait(q_full, done & 1)
                mbarrier.wait(k_full.index(count % STAGES), (count // STAGES) & 1)
                s = warpgroup_mma(
                    q, k_s.index(count % STAGES).permute((1, 0)), gl.zeros([64, N], gl.float32, S),
                    use_acc=False, is_async=True,
                )  # fmt: skip
                s = warpgroup_mma_wait(0, deps=(s,))
                mbarrier.arrive(k_free.index(count % STAGES), count=1)
                top = gl.full([64], float("-inf"), gl.float32, gl.SliceLayout(1, S))
                total = gl.zeros([64], gl.float32, gl.SliceLayout(1, S))
                weights, _shrink, top, total = _weigh(
                    s, top, total, inner, outer, first, first_seen, last_seen, SOFTCAP, WINDOW, True, N, S
                )
                p = gl.convert_layout(weights.to(q.dtype), P)
                o = gl.zeros([64, DV], gl.float32, R)
                count += 1
                if WINDOW > 0:
                    for block in range(first + 1, gl.minimum(whole, end)):
                        o, p, top, total = _advance(
                            o, p, top, total, q, k_s, v_s, k_full, k_free, v_full, v_free, count,
                            inner, outer, block, first_seen, last_seen, SOFTCAP, WINDOW, True, N,
                            STAGES, S, R, P,
                        )  # fmt: skip
                        count += 1
                start = gl.maximum(first + 1, gl.minimum(whole, end))
                for block in range(start, whole_end):
                    o, p, top, total = _advance(
                        o, p, top, total, q, k_s, v_s, k_full, k_free, v_full, v_free, count,
                        inner, outer, block, first_seen, last_seen, SOFTCAP, WINDOW, False, N,
                        STAGES, S, R, P,
                    )  # fmt: skip
                    count += 1
                for block in range(gl.maximum(start, whole_end), end):
                    o, p, top, total = _advance(
                        o, p, top, total, q, k_s, v_s, k_full, k_free, v_full, v_free, count,
                        inner, outer, block, first_seen, last_seen, SOFTCAP, WINDOW, True, N,
                        STAGES, S, R, P,
                    )  # fmt: skip
                    count += 1
                mbarrier.arrive(q_free, count=1)
                done += 1
                before = (count - 1) % STAGES
                mbarrier.wait(v_full.index(before), ((count - 1) // STAGES) & 1)
                o = warpgroup_mma(p, v_s.index(before), o, is_async=True)
                o = warpgroup_mma_wait(0, deps=(o,))
                mbarrier.arrive(v_free.index(before), count=1)
                factor = gl.convert_layout(v_scale / total, gl.SliceLayout(1, R))
                result = gl.convert_layout((o * factor[:, None]).to(out_ptr.dtype.element_ty), W)
                written = WHICH * 64 + gl.arange(0, 64, gl.SliceLayout(1, W))
                column = gl.arange(0, DV, gl.SliceLayout(0, W))
                place = (q_row + written).to(gl.int64) * out_token + head * out_head
                gl.store(out_ptr + place[:, None] + column[None, :], result, (written < left)[:, None])


@gluon.jit(do_not_specialize=["items", "programs"])
def _attend(
    tiles, runs, items, programs, q_desc, k_desc, v_desc, k_cache, v_cache,
    out_ptr, out_token, out_head, inner, outer, v_scale,
    HEADS: gl.constexpr, GROUP: gl.constexpr, D: gl.constexpr, DV: gl.constexpr, CAUSAL: gl.constexpr,
    WINDOW: gl.constexpr, SOFTCAP: gl.constexpr, DIRECT: gl.constexpr, N: gl.constexpr,
    STAGES: gl.constexpr, REGISTERS: gl.constexpr, LOADER_REGISTERS: gl.constexpr,
):  # fmt: skip
    q_s = gl.allocate_shared_memory(q_desc.dtype, [2, 64, D], q_desc.layout)
    k_s = gl.allocate_shared_memory(k_desc.dtype, [STAGES, N, D], k_desc.layout)
    v_s = gl.allocate_shared_memory(v_desc.dtype, [STAGES, N, DV], v_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    q_free = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    mbarrier.init(q_free, count=2)
    for stage in gl.static_range(STAGES):
        mbarrier.init(k_full.index(stage), count=1)
        mbarrier.init(k_free.index(stage), count=2)
        mbarrier.init(v_full.index(stage), count=1)
        mbarrier.init(v_free.index(stage), count=2)
    gl.warp_specialize(
        [
            (_multiply, (
                tiles, items, programs, out_ptr, out_token, out_head, inner, outer, v_scale,
                q_s, k_s, v_s, q_full, q_free, k_full, k_free, v_full, v_free,
                0, HEADS, DV, CAUSAL, WINDOW, SOFTCAP, N, STAGES,
            )),
            (_multiply, (
                tiles, items, programs, out_ptr, out_token, out_head, inner, outer, v_scale,
                q_s, k_s, v_s, q_full, q_free, k_full, k_free, v_full, v_free,
                1, HEADS, DV, CAUSAL, WINDOW, SOFTCAP, N, STAGES,
            )),
            (_load, (
                tiles, runs, items, programs, q_desc, k_desc, v_desc, k_cache, v_cache,
                q_s, k_s, v_s, q_full, q_free, k_full, k_free, v_full, v_free,
                HEADS, GROUP, D, DV, CAUSAL, WINDOW, DIRECT, N, STAGES,
            )),
        ],
        [4, 1],
        [REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip


def supports(head_dim: int, v_dim: int) -> bool:
    """Whether `attend` has tiles for heads of these widths."""
    return head_dim == v_dim and head_dim in (64, 128, 256)


def reads_runs(q: Tensor, cache: Tensor) -> bool:
    """Whether blocks of this cache [S, hk, d] can be read in place: heads side by side, of q's dtype."""
    return (
        _block(cache.shape[2]) == TOKENS
        and cache.dtype == q.dtype
        and cache.stride(1) == cache.shape[2]
        and cache.stride(0) * cache.itemsize % 16 == 0
        and cache.data_ptr() % 16 == 0
    )


def attend(
    tiles: Tensor,
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    *,
    inner: float,
    outer: float,
    v_scale: float,
    causal: bool,
    window: int | None,
    softcap: bool,
    direct: tuple[Tensor, Tensor, Tensor] | None = None,
) -> None:
    """out [Σq, hq, d] of the tiles [n, 8] of `extend`, each of `ROWS` queries of every head.

    q [Σq, hq, d] is float16 or bfloat16, keys and values [t, hk, d] are contiguous and of the same dtype. A
    request's tokens begin at a multiple of `TOKENS` and are followed by such that are finite, up to the next.
    A weight is exp2(outer * score); with softcap a score is tanh(inner * product), else the product.

    direct: the caches of keys and of values [S, hk, d] (see `reads_runs`), and for every `TOKENS` of t the
    slot [t / TOKENS] int32 from which as many lie side by side there, or -1 if they are to be read from keys
    and values.
    """
    _, heads, dim = q.shape
    kv_heads, v_dim = values.shape[1:]
    block = _block(dim)
    if q.stride(1) != dim or q.stride(0) % 8 or q.data_ptr() % 16:
        q = q.contiguous()
    items = tiles.shape[0] * heads
    programs = min(items, torch.cuda.get_device_properties(q.device).multi_processor_count)
    k_cache, v_cache, runs = (keys, values, tiles) if direct is None else direct
    _attend[(programs,)](
        tiles, runs, items, programs,
        _descriptor(q, 64), _descriptor(keys, block), _descriptor(values, block),
        _descriptor(k_cache, block), _descriptor(v_cache, block),
        out, out.stride(0), out.stride(1), inner, outer, v_scale,
        HEADS=heads, GROUP=heads // kv_heads, D=dim, DV=v_dim, CAUSAL=causal, WINDOW=window or 0,
        SOFTCAP=softcap, DIRECT=direct is not None, N=block, STAGES=_STAGES,
        REGISTERS=_REGISTERS, LOADER_REGISTERS=_LOADER_REGISTERS, num_warps=4,
    )  # fmt: skip


def _block(dim: int) -> int:
    """Tokens of a block: what leaves room in shared memory for two of keys and two of values."""
    return TOKENS if dim <= 128 else TOKENS // 2


def _descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Of x [n, heads, dim], whose heads lie side by side: blocks of `rows` of one head."""
    count, heads, dim = x.shape
    layout = _layout(rows, dim, x.dtype)
    return TensorDescriptor(x, [count, heads * dim], [x.stride(0), 1], [rows, dim], layout)


@cache
def _layout(rows: int, dim: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    """Of a block of a descriptor. Made by a function for kernels, which takes the host 12 us."""
    kind = gl.bfloat16 if dtype == torch.bfloat16 else gl.float16
    return gl.NVMMASharedLayout.get_default_for([rows, dim], kind)
