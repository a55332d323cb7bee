# SPDX-License-Identifier: Apache-2.0
"""Decode over float8 caches, which are read four elements to a word and widened two at a time.

A tensor core takes its operand from shared memory in units of 32 bits; elements of 8 bits are read one by one
there. Here the unit is a word: its bytes are those of four neighbouring elements, and byte j of all words
makes a product of its own, with every fourth element of the queries. That costs a few integer operations for
four elements: e5m2 is the upper half of float16; e4m3, moved down one bit, is a float16 of a 256th. Both are
exact, also where they are subnormal; NaN, which caches do not hold, becomes a number in e4m3.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sgl_kernels._triton.decode_piece import leave, weights_of
from sgl_kernels.attention.protocol import AttentionSpec

# Of both halves of a word: the upper byte; its sign; what follows the sign, moved down by one.
_UPPER = tl.constexpr(0xFF00FF00 - (1 << 32))
_SIGN = tl.constexpr(0x80008000 - (1 << 32))
_REST = tl.constexpr(0x3F803F80)


@triton.jit
def _widen(words, MANTISSA: tl.constexpr):
    """float16 of bytes 0, 1, 2 and 3 of int32 words; times 2 ** -8 for e4m3 (3 bits of mantissa)."""
    even, odd = words << 8, words
    if MANTISSA == 3:
        even = (even & _SIGN) | ((even >> 1) & _REST)
        odd = (odd & _SIGN) | ((odd >> 1) & _REST)
    else:
        even, odd = even & _UPPER, odd & _UPPER
    return _half(even), _half(odd), _half(even >> 16), _half(odd >> 16)


@triton.jit
def _half(x):
    return x.to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _part(q_rows, valid, word, PART: tl.constexpr):
    return tl.load(q_rows + 4 * word[None, :] + PART, valid[:, None], other=0.0).to(tl.float32)


@triton.jit
def decode_words(
    q_ptr, k_ptr, v_ptr, out_ptr, slots_ptr, lanes_ptr, pieces_ptr, part_ptr, sum_ptr,
    scale, softcap, v_scale,
    q_token, q_head, k_slot, k_head, v_slot, v_head, out_token, out_head,
    GROUP: tl.constexpr, TILES: tl.constexpr, Q_HEADS: tl.constexpr,
    D: tl.constexpr, D0: tl.constexpr, D1: tl.constexpr, V_DIM: tl.constexpr, V: tl.constexpr,
    LATENT: tl.constexpr, SOFTCAP: tl.constexpr, FLOAT8: tl.constexpr, OVERLAP: tl.constexpr,
    LANE: tl.constexpr, PIECE: tl.constexpr, M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One lane of up to M query heads of one KV head; pieces of one query each. k and v are words."""
    kv_head = (tl.program_id(0) // TILES).to(tl.int64)
    m = tl.program_id(0) % TILES * M + tl.arange(0, M)
    n = tl.arange(0, N)
    k_word = tl.arange(0, D // 4)
    v_word = tl.arange(0, V // 4)
    valid = m < GROUP
    head = kv_head * GROUP + m
    k_ptr += kv_head * k_head
    v_ptr += kv_head * v_head
    lane = lanes_ptr + tl.program_id(1) * LANE
    first = tl.load(lane)
    last = first + tl.load(lane + 1)
    widened = 256.0 if FLOAT8 == 3 else 1.0
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    for piece in range(first, last):
        record = pieces_ptr + piece * PIECE
        query = tl.load(record).to(tl.int64)
        begin = tl.load(record + 2)
        end = tl.load(record + 3)
        slot = tl.load(slots_ptr + begin + n, begin + n < end, other=0)
        q_rows = q_ptr + query * q_token + head[:, None] * q_head
        q0, q1 = _part(q_rows, valid, k_word, 0), _part(q_rows, valid, k_word, 1)
        q2, q3 = _part(q_rows, valid, k_word, 2), _part(q_rows, valid, k_word, 3)
        # The largest element becomes 1: products with keys stay within what float16 and its sums hold.
        largest = tl.maximum(tl.maximum(tl.abs(q0), tl.abs(q1)), tl.maximum(tl.abs(q2), tl.abs(q3)))
        largest = tl.max(largest, 1)
        largest = tl.where(largest > 0, largest, 1.0)[:, None]
        q0, q1 = (q0 / largest).to(tl.float16), (q1 / largest).to(tl.float16)
        q2, q3 = (q2 / largest).to(tl.float16), (q3 / largest).to(tl.float16)
        row_scale = tl.sum(largest, 1) * (scale * widened)
        a0, a1 = tl.zeros((M, V // 4), tl.float32), tl.zeros((M, V // 4), tl.float32)
        a2, a3 = tl.zeros((M, V // 4), tl.float32), tl.zeros((M, V // 4), tl.float32)
        top = tl.full((M,), float("-inf"), tl.float32)
        total = tl.zeros((M,), tl.float32)
        for start in range(begin, end, N):
            inside = start + n < end
            k_rows = k_ptr + slot.to(tl.int64)[:, None] * k_slot
            v_rows = v_ptr + slot.to(tl.int64)[:, None] * v_slot
            slot = tl.load(slots_ptr + start + N + n, start + N + n < end, other=0)
            k = tl.load(k_rows + k_word[None, :], inside[:, None], other=0)
            v = tl.load(v_rows + v_word[None, :], inside[:, None], other=0)
            k0, k1, k2, k3 = _widen(k, FLOAT8)
            scores = tl.dot(q0, tl.trans(k0))
            scores = tl.dot(q1, tl.trans(k1), scores)
            scores = tl.dot(q2, tl.trans(k2), scores)
            scores = tl.dot(q3, tl.trans(k3), scores)
            weights, fade, top, total = weights_of(scores, row_scale, softcap, inside, top, total, SOFTCAP)
            weights = weights.to(tl.float16)
            v0, v1, v2, v3 = _widen(v, FLOAT8)
            a0 = tl.dot(weights, v0, a0 * fade[:, None])
            a1 = tl.dot(weights, v1, a1 * fade[:, None])
            a2 = tl.dot(weights, v2, a2 * fade[:, None])
            a3 = tl.dot(weights, v3, a3 * fade[:, None])
        acc = tl.reshape(tl.join(tl.join(a0, a2), tl.join(a1, a3)), (M, V))
        leave(
            acc, top, total, v_scale * widened, tl.load(record + 4), query, m * 0, head, valid,
            out_ptr, part_ptr, sum_ptr, out_token, out_head, Q_HEADS, V_DIM, V,
        )  # fmt: skip


def as_words(spec: AttentionSpec, k_cache: Tensor, v_cache: Tensor) -> tuple[Tensor, Tensor] | None:
    """Float8 caches [S, hk, d] as int32 [S, hk, d / 4], or None if they are not made of such words, or of too
    few for a product."""
    for width in (spec.head_dim, spec.v_dim):
        if width not in (64, 128, 256):
            return None
    for cache in (k_cache, v_cache):
        places = (*cache.stride()[:2], cache.data_ptr(), cache.storage_offset())
        if any(place % 4 for place in places):
            return None
    return k_cache.view(torch.int32), v_cache.view(torch.int32)
