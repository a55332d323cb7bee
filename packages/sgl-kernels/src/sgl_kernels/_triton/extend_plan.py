# SPDX-License-Identifier: Apache-2.0
"""What a step's extends are made of: tiles of queries in the order in which they begin, and a way to work.

Bookkeeping on lengths, and a list of tiles on the device. Knows nothing of scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels._backend import capability
from sgl_kernels._check import require
from sgl_kernels._triton import extend_hopper
from sgl_kernels.attention.arguments import Size, check_layout, check_no_larger
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout, Plan

_Lengths = NDArray[np.int64]

RECORD = 8  # int32 a tile: first query, queries, first token, tokens, first row; padded to 32 bytes
_WIDEST = 576  # elements of a head
PAD = extend_hopper.TOKENS  # gathered requests begin at multiples
# Measured on an H200. The way "paged" makes _PRODUCT_RATE operations a second; the others save these shares.
_PRODUCT_RATE, _COPY_RATE = 3.3e14, 3.5e12
_HOPPER_SAVES, _GATHER_SAVES = 0.4, 0.25
_GATHER_LIMIT = 1 << 31  # bytes read and written, for half of which there must be room


@triton.jit
def _find_runs(slot_ptr, run_ptr, BLOCK: tl.constexpr):
    """The first slot of a block whose slots follow one another, else -1."""
    block = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    slots = tl.load(slot_ptr + block * BLOCK + lane)
    first = tl.min(slots, 0)
    strangers = tl.sum((slots != first + lane).to(tl.int32), 0)
    tl.store(run_ptr + block, tl.where(strangers == 0, first, -1).to(tl.int32))


@dataclass
class ExtendPlan(Plan):
    """The tiles of a step, on the device, and how they are worked on.

    way: "paged" reads the caches slot by slot; "gathered" puts keys and values side by side first; "hopper"
    is the kernel of `extend_hopper`, which reads slot by slot what it can.
    """

    spec: AttentionSpec
    way: str
    rows: int  # of a tile
    packed: int  # query heads in a tile: those of a KV head, or one
    made_for: Size
    tiles: Tensor  # [any, RECORD] int32; a record without queries is nothing to do
    slots: Tensor  # the layout's; else those of the requests, each with -1 up to a multiple of PAD, then -2
    live: int  # how many of them there are before the -2
    runs: Tensor  # hopper: the first slot of each PAD of them if they follow one another, else -1


def supports_extend(spec: AttentionSpec) -> bool:
    """Whether `plan_extend` accepts a spec."""
    if spec.window is not None and (spec.window < 1 or not spec.causal):
        return False
    widest = max(spec.head_dim, spec.v_dim)
    return spec.q_heads % spec.kv_heads == 0 and 0 < widest <= _WIDEST and spec.scale > 0


def plan_extend(
    layout: PagedLayout,
    spec: AttentionSpec,
    requests: Sequence[int],
    q_starts: Sequence[int],
    kv_starts: Sequence[int],
    into: ExtendPlan | None = None,
) -> ExtendPlan:
    """Prepares `run_extend` for some requests of a layout.

    requests: their numbers in the layout. q_starts, kv_starts: where the queries and the tokens of the
    layout's requests begin, indexed by those numbers. into: as in `AttentionBackend.plan`.

    Raises ValueError that begins with "into" if that plan was made for less, or for another spec.
    """
    size = check_layout(layout)
    chosen = np.asarray(requests, dtype=np.int64)
    q_lens, kv_lens, q_begin, kv_begin = (
        np.asarray(each, dtype=np.int64)[chosen]
        for each in (layout.q_lens, layout.kv_lens, q_starts, kv_starts)
    )
    padded = -(-kv_lens // PAD) * PAD
    if into is None:
        plan = _new_plan(layout, spec, size, q_lens, kv_lens)
    else:
        require(into.spec == spec, "into", "is of another spec")
        check_no_larger(size, into.made_for)
        plan = into
    if plan.way == "paged":
        plan.slots = layout.kv_slots
    else:
        nothing = layout.kv_slots.new_full((PAD,), -1)
        parts = []
        for begin, length, room in zip(kv_begin.tolist(), kv_lens.tolist(), padded.tolist(), strict=True):
            parts += [layout.kv_slots[begin : begin + length], nothing[: room - length]]
        plan.live = int(padded.sum())
        if parts:
            torch.cat(parts, out=plan.slots[: plan.live])
        plan.slots[plan.live :].fill_(-2)
        kv_begin = padded.cumsum() - padded
    if plan.runs.shape[0]:
        _find_runs[(plan.runs.shape[0],)](plan.slots, plan.runs, BLOCK=PAD, num_warps=1)
    records = torch.zeros(plan.tiles.shape, dtype=torch.int32, pin_memory=plan.tiles.is_cuda)
    _fill(records.numpy(), plan, q_begin, q_lens, kv_begin, kv_lens)
    plan.tiles.copy_(records, non_blocking=True)
    return plan


def _new_plan(
    layout: PagedLayout, spec: AttentionSpec, size: Size, q_lens: _Lengths, kv_lens: _Lengths
) -> ExtendPlan:
    group = spec.q_heads // spec.kv_heads
    way = way_of(spec, q_lens, kv_lens, layout.kv_slots.device)
    packed, rows = group, tile_rows(spec, int(q_lens.max(initial=1)) * group)
    if way == "hopper":
        packed, rows = 1, extend_hopper.ROWS
    # Enough for any layout that is no larger: some requests are left to the other kernel, or none.
    requests = max(len(q_lens), size.extends)
    capacity = requests + size.queries * packed // rows
    tiles = torch.empty(capacity, RECORD, dtype=torch.int32, device=layout.kv_slots.device)
    slots, runs = layout.kv_slots, 0
    if way != "paged":
        blocks = max(1, requests + size.tokens // PAD)  # of any layout that is no larger
        slots, runs = slots.new_empty(blocks * PAD), blocks if way == "hopper" else 0
    return ExtendPlan(spec, way, rows, packed, size, tiles, slots, 0, tiles.new_empty(runs))


def _fill(
    records: NDArray[np.int32],
    plan: ExtendPlan,
    q_begin: _Lengths,
    q_lens: _Lengths,
    kv_begin: _Lengths,
    kv_lens: _Lengths,
) -> None:
    """One record a tile, in the order in which they begin.

    A request's tiles stand together, so that they share its keys in the cache of the GPU; of requests the
    longest come first, of tiles those that see most: what ends a step is short. For Hopper, where programs
    take their tiles in turns, all tiles are in order of what they see.
    """
    order = np.argsort(-kv_lens, kind="stable")
    counts = -(-q_lens[order] * plan.packed // plan.rows)
    owner = np.repeat(order, counts)
    row = (np.repeat(counts.cumsum(), counts) - np.arange(len(owner)) - 1) * plan.rows  # the last comes first
    if plan.way == "hopper":
        seen = kv_lens[owner]
        if plan.spec.causal:
            seen = seen - q_lens[owner] + np.minimum(row + plan.rows, q_lens[owner])
        spread = np.argsort(-seen, kind="stable")
        owner, row = owner[spread], row[spread]
    for column, values in enumerate((q_begin[owner], q_lens[owner], kv_begin[owner], kv_lens[owner], row)):
        records[: len(owner), column] = values


def way_of(spec: AttentionSpec, q_lens: _Lengths, kv_lens: _Lengths, device: torch.device) -> str:
    """Of the ways of `ExtendPlan` the one for these requests.

    A gather pays where it takes less time than the faster products after it save.
    """
    seen = q_lens * kv_lens - (q_lens * (q_lens - 1) // 2 if spec.causal else 0)
    if spec.window is not None:
        seen = np.minimum(seen, q_lens * spec.window)
    width = spec.head_dim + spec.v_dim
    products = 2 * int(seen.sum()) * spec.q_heads * width / _PRODUCT_RATE
    copied = 4 * int(kv_lens.sum()) * spec.kv_heads * width  # bytes of 16-bit elements, read and written
    if copied > _GATHER_LIMIT:
        return "paged"
    hopper = extend_hopper.supports(spec.head_dim, spec.v_dim) and capability(device) == (9, 0)
    if hopper and int(q_lens.sum()) >= extend_hopper.ROWS * len(q_lens):  # its tiles do not pack heads
        return "hopper" if copied / _COPY_RATE < _HOPPER_SAVES * products else "paged"
    return "gathered" if copied / _COPY_RATE < _GATHER_SAVES * products else "paged"


def tile_rows(spec: AttentionSpec, most: int) -> int:
    """Rows of a tile where no request has more than `most` of a KV head. Of few sizes: each is compiled."""
    widest = max(spec.head_dim, spec.v_dim)
    return 16 if most <= 16 else 64 if most <= 64 or widest > 256 else 128
