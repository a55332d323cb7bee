# SPDX-License-Identifier: Apache-2.0
"""Merging of partial attention states: each weighs as much as the sum of exponentials it stands for.

Decode leaves states in a workspace, of which a record of a query says where its own lie: `merge_pieces` reads
such a record. States there are normalised, and their log-sum-exp is in units of log2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.sizes import next_power_of_2

_STATES = 16  # read at once
_ELEMENTS = 8192  # of states, held at once by a program of four warps


@triton.jit
def merge_pieces(
    part_ptr, sum_ptr, head, first, count, other, other_count, other_stride, q_heads, v_dim,
    V: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """[V] float32: one head of the states first … first + count - 1 and of other, other + other_stride, …
    (other_count of them) as one. part [states, q_heads, v_dim] and sum [states, q_heads] are float32."""
    v = tl.arange(0, V)
    top = float("-inf")
    total = 0.0
    acc = tl.zeros((V,), tl.float32)
    for start in range(0, count + other_count, STATES):
        j = start + tl.arange(0, STATES)
        inside = j < count + other_count
        state = tl.where(j < count, first + j, other + (j - count) * other_stride).to(tl.int64)
        place = state * q_heads + head
        there = inside[:, None] & (v < v_dim)[None, :]
        part = tl.load(part_ptr + place[:, None] * v_dim + v[None, :], there, other=0.0)
        lse = tl.load(sum_ptr + place, inside, other=float("-inf"))
        new = tl.maximum(top, tl.max(lse, 0))
        weight = tl.exp2(lse - new)
        fade = tl.exp2(top - new)
        acc = acc * fade + tl.sum(part * weight[:, None], 0)
        total = total * fade + tl.sum(weight, 0)
        top = new
    return acc / total


@triton.jit
def _merge_states(
    out_ptr, lse_ptr, merged_ptr, merged_lse_ptr, states, dim,
    out_n, out_k, out_h, lse_n, lse_k, lse_h, merged_n, merged_h,
    D: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)
    top = float("-inf")
    total = 0.0
    acc = tl.zeros((D,), tl.float32)
    for start in range(0, states, STATES):
        state = (start + tl.arange(0, STATES)).to(tl.int64)
        inside = state < states
        lse = tl.load(lse_ptr + row * lse_n + state * lse_k + head * lse_h, inside, other=float("-inf"))
        new = tl.maximum(top, tl.max(lse, 0))
        pivot = tl.where(new == float("-inf"), 0.0, new)  # nothing seen yet: all weights are 0, not NaN
        weight = tl.exp(lse - pivot)
        fade = tl.exp(top - pivot)
        # What an empty state holds is nobody's business, NaN included.
        there = (weight > 0)[:, None] & (d < dim)[None, :]
        place = out_ptr + row * out_n + head * out_h + state[:, None] * out_k + d[None, :]
        part = tl.load(place, there, other=0.0).to(tl.float32)
        acc = acc * fade + tl.sum(part * weight[:, None], 0)
        total = total * fade + tl.sum(weight, 0)
        top = new
    seen = total > 0
    merged = tl.where(seen, acc / tl.where(seen, total, 1.0), 0.0)
    place = merged_ptr + row * merged_n + head * merged_h + d
    tl.store(place, merged.to(merged_ptr.dtype.element_ty), d < dim)
    merged_lse = top + tl.log(tl.where(seen, total, 1.0))
    tl.store(merged_lse_ptr + row * tl.num_programs(1) + head, merged_lse)


def merge_states(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    n, states, heads, dim = out.shape
    merged = torch.empty(n, heads, dim, dtype=out.dtype, device=out.device)
    merged_lse = torch.empty(n, heads, dtype=torch.float32, device=out.device)
    if n * heads:
        width = next_power_of_2(max(1, dim))
        block = min(next_power_of_2(max(1, states)), max(1, _ELEMENTS // width), _STATES)
        _merge_states[(n, heads)](
            out, lse, merged, merged_lse, states, dim, *out.stride()[:3], *lse.stride(), *merged.stride()[:2],
            D=width, STATES=block, num_warps=4,
        )  # fmt: skip
    return merged, merged_lse
