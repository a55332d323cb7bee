# SPDX-License-Identifier: Apache-2.0
"""What every kernel of `decode` does with a piece of a request: weigh a block, leave the result."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.softcap import tanh_of


@triton.jit
def weights_of(scores, row_scale, softcap, inside, top, total, SOFTCAP: tl.constexpr):
    """What a block's products become: weights, and the running maximum (in units of log2) and sum."""
    scores *= row_scale[:, None]
    if SOFTCAP:
        scores = softcap * tanh_of(scores, 1.0)
    scores = tl.where(inside[None, :], scores, float("-inf"))
    new = tl.maximum(top, tl.max(scores, 1))
    weights = tl.exp2(scores - new[:, None])
    fade = tl.exp2(top - new)
    return weights, fade, new, total * fade + tl.sum(weights, 1)


@triton.jit
def leave(
    acc, top, total, v_scale, state, query, row, head, valid, out_ptr, part_ptr, sum_ptr, out_token, out_head,
    Q_HEADS: tl.constexpr, V_DIM: tl.constexpr, V: tl.constexpr,
):  # fmt: skip
    """Write the result of a piece: the output if it is whole (state -1), or else a state for each row."""
    v = tl.arange(0, V)
    there = valid[:, None] & (v < V_DIM)[None, :]
    result = acc * (v_scale / total)[:, None]
    if state < 0:
        out_rows = out_ptr + (query + row)[:, None] * out_token + head[:, None] * out_head
        tl.store(out_rows + v[None, :], result.to(out_ptr.dtype.element_ty), there)
    else:
        place = (state + row).to(tl.int64) * Q_HEADS + head
        tl.store(sum_ptr + place, top + tl.log2(total), valid)
        tl.store(part_ptr + place[:, None] * V_DIM + v[None, :], result, there)
