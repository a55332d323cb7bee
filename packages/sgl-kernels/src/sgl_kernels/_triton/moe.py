# SPDX-License-Identifier: Apache-2.0
"""Experts as two products of blocks of rows, each block with the weight of its one expert.

An entry is a token at one of its experts, number token * k + which. `_count` and `_place` put the entries in
order of their experts, each expert's padded to whole blocks, on the device alone; how many blocks there are
is bounded by what the host knows, and programs beyond the last one end at once. The two products gather rows
by that order and write them by entry, so that `_combine` finds the k of a token side by side and sums them in
one order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.sizes import cdiv, next_power_of_2
from sgl_kernels.moe import Activation

_ENTRIES = 1024  # that `_count` and `_place` look at at once
_WIDTH = 1024  # of what a program of `_combine` sums
_ALIGN = 4  # int32


class Tile(NamedTuple):
    """What a program of a product makes: rows x columns, `depth` of the inner dimension at a time.

    together: how many blocks of rows share a stretch of the weight while it is in the cache.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    together: int = 8


@triton.jit(do_not_specialize=["entries"])
def _count(experts_ptr, counts_ptr, entries, BLOCK: tl.constexpr):
    expert = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, entries, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += (tl.load(experts_ptr + at, at < entries, other=-1) == expert).to(tl.int32)
    tl.store(counts_ptr + expert, tl.sum(total, 0))


@triton.jit(do_not_specialize=["entries"])
def _place(
    experts_ptr, counts_ptr, order_ptr, owners_ptr, blocks_ptr, entries, number,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, NUMBER: tl.constexpr,
):  # fmt: skip
    """order: the entries of each block, `entries` for none; owners: its expert; blocks: their number."""
    expert = tl.program_id(0)
    every = tl.arange(0, NUMBER)
    blocks = (tl.load(counts_ptr + every, every < number, other=0) + ROWS - 1) // ROWS
    first = tl.sum(tl.where(every < expert, blocks, 0), 0)
    mine = tl.sum(tl.where(every == expert, blocks, 0), 0)
    tl.store(blocks_ptr, tl.sum(blocks, 0), expert == 0)
    place = first * ROWS
    for start in range(0, entries, BLOCK):
        at = start + tl.arange(0, BLOCK)
        is_mine = (tl.load(experts_ptr + at, at < entries, other=-1) == expert).to(tl.int32)
        tl.store(order_ptr + place + tl.cumsum(is_mine, 0) - 1, at, is_mine > 0)
        place += tl.sum(is_mine, 0)
    pad = place + tl.arange(0, ROWS)
    tl.store(order_ptr + pad, tl.full((ROWS,), 0, tl.int32) + entries, pad < (first + mine) * ROWS)
    for start in range(0, mine, ROWS):
        at = start + tl.arange(0, ROWS)
        tl.store(owners_ptr + first + at, tl.full((ROWS,), 0, tl.int32) + expert, at < mine)


@triton.jit(do_not_specialize=["most_blocks", "entries"])
def _product(
    x_ptr, weight_ptr, out_ptr, order_ptr, owners_ptr, blocks_ptr, most_blocks, entries, shared_by, n, k,
    stride, GATED: tl.constexpr, ACTIVATION: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr, DEPTH: tl.constexpr, TOGETHER: tl.constexpr,
):  # fmt: skip
    """out[entry] = x[entry // shared_by] @ weight[expert].T for each entry; gated: of both halves, as one."""
    columns = tl.cdiv(n, COLUMNS)
    first = tl.program_id(0) // (TOGETHER * columns) * TOGETHER
    here = tl.program_id(0) % (TOGETHER * columns)
    together = tl.minimum(most_blocks - first, TOGETHER)
    block = first + here % together
    if block < tl.load(blocks_ptr):
        entry = tl.load(order_ptr + block * ROWS + tl.arange(0, ROWS))
        valid = entry < entries
        # Padding repeats the first entry of its block, which exists, and is not stored: rows of entries of no
        # expert were never written.
        row = (tl.where(valid, entry, tl.min(entry, 0)) // shared_by).to(tl.int64)
        column = here // together * COLUMNS + tl.arange(0, COLUMNS)
        inner = tl.arange(0, DEPTH)
        x = x_ptr + row[:, None] * stride + inner[None, :]
        weight = weight_ptr + tl.load(owners_ptr + block).to(tl.int64) * (2 * n if GATED else n) * k
        weight += tl.minimum(column, n - 1).to(tl.int64)[None, :] * k + inner[:, None]
        half = n.to(tl.int64) * k
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        up = tl.zeros((ROWS, COLUMNS), tl.float32) if GATED else 0.0
        for start in range(0, k, DEPTH):
            if EVEN:
                left = tl.load(x + start)
                total = tl.dot(left, tl.load(weight + start), total, input_precision="ieee")
                if GATED:
                    up = tl.dot(left, tl.load(weight + half + start), up, input_precision="ieee")
            else:
                inside = start + inner < k
                left = tl.load(x + start, inside[None, :], other=0.0)
                right = tl.load(weight + start, inside[:, None], other=0.0)
                total = tl.dot(left, right, total, input_precision="ieee")
                if GATED:
                    right = tl.load(weight + half + start, inside[:, None], other=0.0)
                    up = tl.dot(left, right, up, input_precision="ieee")
        if GATED:
            if ACTIVATION == "silu":
                total *= tl.sigmoid(total)
            elif ACTIVATION == "gelu":
                total *= 0.5 * (1.0 + tl.erf(total * 0.7071067811865476))
            else:
                total *= tl.sigmoid(1.5957691216057308 * (total + 0.044715 * total * total * total))
            total *= up
        out = out_ptr + entry.to(tl.int64)[:, None] * n + column[None, :]
        tl.store(out, total.to(out_ptr.dtype.element_ty), valid[:, None] & (column < n)[None, :])


@triton.jit
def _combine(made_ptr, experts_ptr, weights_ptr, out_ptr, number, k, width, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for i in range(k):
        entry = token * k + i
        expert = tl.load(experts_ptr + entry)
        exists = (expert >= 0) & (expert < number)
        made = tl.load(made_ptr + entry * width + at, exists & (at < width), other=0.0).to(tl.float32)
        total += made * tl.load(weights_ptr + entry, exists, other=0.0)
    tl.store(out_ptr + token * width + at, total.to(out_ptr.dtype.element_ty), at < width)


def fused_experts(
    x: Tensor,
    gate_up: Tensor,
    down: Tensor,
    weights: Tensor,
    experts: Tensor,
    activation: Activation,
    tiles: tuple[Tile, Tile] | None = None,
) -> Tensor:
    tokens, width = x.shape
    number, inner, k = len(gate_up), down.shape[2], experts.shape[1]
    entries = tokens * k
    if not (entries and number and width and inner):
        return torch.zeros(tokens, width, dtype=x.dtype, device=x.device)
    weights, experts = weights.contiguous(), experts.contiguous()
    first, second = tiles or tiles_for(entries, number, x.dtype)
    most = entries // first.rows + min(entries, number)
    # Each begins at a multiple of 16 bytes: Triton compiles a kernel anew for a pointer that does not.
    sizes = [most * first.rows, _ALIGN, -(-number // _ALIGN) * _ALIGN, most]
    integers = torch.empty(sum(sizes), dtype=torch.int32, device=x.device)
    order, blocks, counts, owners = integers.split(sizes)
    _count[(number,)](experts, counts, entries, BLOCK=_ENTRIES, num_warps=4)
    _place[(number,)](
        experts, counts, order, owners, blocks, entries, number,
        ROWS=first.rows, BLOCK=_ENTRIES, NUMBER=next_power_of_2(number), num_warps=4,
    )  # fmt: skip
    active = torch.empty(entries, inner, dtype=x.dtype, device=x.device)
    made = torch.empty(entries, width, dtype=x.dtype, device=x.device)
    for gated, tile, left, weight, out, shared_by in (
        (True, first, x, gate_up, active, k),
        (False, second, active, down, made, 1),
    ):
        n, depth = out.shape[1], left.shape[1]
        _product[(most * cdiv(n, tile.columns),)](
            left, weight, out, order, owners, blocks, most, entries, shared_by, n, depth, left.stride(0),
            GATED=gated, ACTIVATION=activation, EVEN=depth % tile.depth == 0, ROWS=tile.rows,
            COLUMNS=tile.columns, DEPTH=tile.depth, TOGETHER=tile.together,
            num_warps=tile.warps, num_stages=tile.stages,
        )  # fmt: skip
    result = torch.empty(tokens, width, dtype=x.dtype, device=x.device)
    grid = (tokens, cdiv(width, _WIDTH))
    _combine[grid](made, experts, weights, result, number, k, width, BLOCK=_WIDTH, num_warps=4)
    return result


def tiles_for(entries: int, number: int, dtype: torch.dtype) -> tuple[Tile, Tile]:
    """Of the two products, for so many entries over so many experts; both have blocks of as many rows."""
    if dtype == torch.float32:
        return Tile(16, 32, 32, 4, 3), Tile(16, 64, 32, 4, 3)
    each = entries / number
    if each <= 8:
        return Tile(16, 64, 128, 4, 4), Tile(16, 128, 128, 4, 3)
    if each <= 24:
        return Tile(32, 64, 128, 4, 3), Tile(32, 128, 128, 4, 3)
    if each <= 96:
        return Tile(64, 128, 64, 8, 4), Tile(64, 256, 64, 8, 3)
    return Tile(128, 128, 64, 8, 3, 16), Tile(128, 256, 64, 8, 4, 16)
