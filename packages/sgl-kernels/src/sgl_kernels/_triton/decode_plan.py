# SPDX-License-Identifier: Apache-2.0
"""What each program of `decode` is to do in one step, written down on the host and uploaded in one copy.

Lanes and pieces come from `attention.splits`; here they become records of int32 at places that do not change
while a CUDA graph lives. Nothing here is a kernel, and nothing looks at a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout
from sgl_kernels.attention.splits import I64, Pieces, divide

# Of each lane: 0 its first piece, 1 pieces, 2 blocks of tokens.
LANE = 4
# Of each piece: 0 first query, 1 queries, 2 first and 3 end of its tokens in kv_slots, 4 the state it leaves
# (the first, of several queries), or -1 if it is whole. States are rows of the workspace.
PIECE = 8
# Of each request in pieces: 0 query (-1: none), 1 first state and 2 number of those of its own pieces,
# 3 first state, 4 number and 5 distance of those of the prefix it shares.
MERGE = 8

_CPU_PROGRAMS = 3  # where Triton interprets


class Tile(NamedTuple):
    """What a program does: `rows` of queries against `tokens` at a time.

    residents: programs that a multiprocessor holds at a time, which decides how many lanes there are.
    narrow: all blocks of a lane in one loop.
    """

    rows: int
    tokens: int
    warps: int
    stages: int
    residents: int
    narrow: bool = False


class Tuning(NamedTuple):
    """What was measured, in one place. A tile of None is chosen by the widths of the heads."""

    tile: Tile | None = None
    shared_tile: Tile | None = None
    least: int = 64  # fewer tokens are not worth a lane
    cost: int = 16  # tokens read in the time that one more piece takes
    snap: int = 32  # a cut this near to the edge of a request moves there
    shared_least: int = 64  # a shorter prefix is not worth its merging
    merged: int = 32  # states that a program of the merging launch loads at once


_DEFAULT = Tuning()


class _Work(NamedTuple):
    """n stretches of tokens, each for one query or a few consecutive ones."""

    query: I64  # [n] the first
    rows: I64  # [n] how many
    begin: I64  # [n] in kv_slots
    length: I64  # [n]


@dataclass
class DecodePlan:
    """Records of one step, and room for what its programs leave for each other."""

    spec: AttentionSpec
    tuning: Tuning
    tile: Tile
    shared_tile: Tile
    most: int  # requests that there is room for
    lanes: int
    shared_lanes: int  # 0: there is no launch over shared prefixes
    merges: int  # records for requests in pieces
    slots: Tensor
    table: Tensor  # int32
    sections: tuple[Tensor, ...]  # of the table: lanes, shared lanes, pieces, shared pieces, merges
    parts: Tensor  # [states, q_heads, v_dim] float32
    sums: Tensor  # [states, q_heads] float32: log2 of the sums of exponentials


def tiles(spec: AttentionSpec, rows: int) -> int:
    """Tiles of `rows` that hold the query heads of all KV heads for one query."""
    return spec.kv_heads * -(-(spec.q_heads // spec.kv_heads) // rows)


def plan_decode(
    layout: PagedLayout,
    spec: AttentionSpec,
    requests: Sequence[int] | I64,
    q_starts: Sequence[int] | I64,
    kv_starts: Sequence[int] | I64,
    into: DecodePlan | None = None,
    tuning: Tuning = _DEFAULT,
) -> DecodePlan:
    """For `requests`, ascending, each of one query. q_starts and kv_starts: of all requests of the layout.

    into: a plan of the same spec, made for a layout of no fewer requests; the caller has checked.
    """
    chosen = np.asarray(requests, np.int64)
    query, begin, length = (
        np.asarray(each, np.int64)[chosen] for each in (q_starts, kv_starts, layout.kv_lens)
    )
    plan = into or _new_plan(layout, spec, tuning)
    plan.slots = layout.kv_slots
    if spec.window is not None:
        unseen = np.maximum(length - spec.window, 0)
        begin, length = begin + unseen, length - unseen
    shared, members = None, np.zeros(0, np.int64)
    if plan.shared_lanes:
        first, rows, tokens = _chunks(layout, plan, chosen, query).T
        members = np.repeat(first - (rows.cumsum() - rows), rows) + np.arange(rows.sum())
        shared = _Work(query[first], rows, begin[first], tokens)
        prefix = np.zeros_like(length)
        prefix[members] = np.repeat(tokens, rows)
        begin, length = begin + prefix, length - prefix
    _fill(plan, _Work(query, np.ones_like(query), begin, length), shared, members)
    return plan


def _new_plan(layout: PagedLayout, spec: AttentionSpec, tuning: Tuning) -> DecodePlan:
    device, most = layout.kv_slots.device, len(layout.q_lens)
    tile, shared_tile = tuning.tile or tile_for(spec), tuning.shared_tile or shared_tile_for(spec)
    lanes, shared_lanes = _lanes(spec, tile, device), 0
    group = spec.q_heads // spec.kv_heads
    if layout.shared and shared_tile.rows // group > 1:
        shared_lanes = _lanes(spec, shared_tile, device)
    # A request in k pieces has k - 1 cuts within it, and there are fewer cuts than lanes. A prefix is in one
    # piece more than cuts, and leaves a state for each request.
    states = min(2 * lanes, most + lanes)
    if shared_lanes:
        states = 2 * most + lanes + shared_lanes * (shared_tile.rows // group)
    merges = most if shared_lanes else min(most, lanes)
    sizes = _sizes(most, lanes, shared_lanes, merges)
    table = torch.empty(sum(sizes), dtype=torch.int32, device=device)
    return DecodePlan(
        spec, tuning, tile, shared_tile, most, lanes, shared_lanes, merges,
        slots=layout.kv_slots,
        table=table,
        sections=table.split(sizes),
        parts=torch.empty(states, spec.q_heads, spec.v_dim, device=device),
        sums=torch.empty(states, spec.q_heads, device=device),
    )  # fmt: skip


def _sizes(most: int, lanes: int, shared_lanes: int, merges: int) -> list[int]:
    """int32 of each section of the table. All begin at a multiple of 16 bytes: Triton compiles a kernel anew
    for a pointer that does not. After its pieces, the narrow kernel looks at two more."""
    shared_pieces = (most + shared_lanes) * PIECE if shared_lanes else 0
    return [lanes * LANE, shared_lanes * LANE, (most + lanes + 1) * PIECE, shared_pieces, merges * MERGE]


def processors(device: torch.device) -> int:
    """Multiprocessors of a CUDA device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    return _CPU_PROGRAMS


def _lanes(spec: AttentionSpec, tile: Tile, device: torch.device) -> int:
    return max(1, processors(device) * tile.residents // tiles(spec, tile.rows))


def _chunks(layout: PagedLayout, plan: DecodePlan, chosen: I64, query: I64) -> I64:
    """[c, 3]: first, number and prefix tokens of chosen requests that are rows of one product.

    Their queries are consecutive. A prefix of which a window hides a part is left to each request.
    """
    most = plan.shared_tile.rows // (plan.spec.q_heads // plan.spec.kv_heads)
    chunks = []
    edges = chosen.searchsorted([(group.first, group.first + group.rows) for group in layout.shared])
    for group, (low, high) in zip(layout.shared, edges.tolist(), strict=True):
        if high - low < 2 or group.tokens < plan.tuning.shared_least:
            continue
        if query[high - 1] - query[low] != high - 1 - low:
            continue
        if plan.spec.window is not None:
            longest = max(layout.kv_lens[group.first : group.first + group.rows])
            if longest > plan.spec.window:
                continue
        chunks += [(first, min(most, high - first), group.tokens) for first in range(low, high, most)]
    return np.array(chunks, np.int64).reshape(-1, 3)


def _fill(plan: DecodePlan, own: _Work, shared: _Work | None, members: I64) -> None:
    """Write the table of a step and send it. members: the requests of `shared`, in its order."""
    sizes = _sizes(plan.most, plan.lanes, plan.shared_lanes, plan.merges)
    host = torch.empty(sum(sizes), dtype=torch.int32, pin_memory=plan.table.is_cuda)
    cells, ends = host.numpy(), list(accumulate(sizes, initial=0))
    lanes, shared_lanes, pieces, shared_pieces, merges = (cells[a:b] for a, b in pairwise(ends))
    policy = {"least": plan.tuning.least, "cost": plan.tuning.cost, "snap": plan.tuning.snap}
    divided = divide(own.length, plan.lanes, **policy)
    merged = divided.number > 1
    merged[members] = True
    # States: those of the requests first, then those of the prefixes, in each case in the order of pieces.
    states = np.where(merged, divided.number, 0)
    first_state = states.cumsum() - states
    owner = divided.owner
    state = np.where(merged[owner], first_state[owner] + _index_of(divided), -1)
    _write(lanes, pieces, own, divided, state, plan.tile.tokens)

    which = merged.nonzero()[0]
    merge = merges.reshape(-1, MERGE)
    merge[:, 0] = -1
    merge[: which.shape[0], 0] = own.query[which]
    merge[: which.shape[0], 1] = first_state[which]
    merge[: which.shape[0], 2] = divided.number[which]
    merge[:, 3:6] = 0
    if shared is not None:
        divided = divide(shared.length, plan.shared_lanes, **policy)
        number, rows, owner = divided.number, shared.rows, divided.owner
        base = int(states.sum()) + (number * rows).cumsum() - number * rows
        state = base[owner] + _index_of(divided) * rows[owner]
        _write(shared_lanes, shared_pieces, shared, divided, state, plan.shared_tile.tokens)
        prefix = np.zeros((3, own.length.shape[0]), np.int64)  # first state, number, distance
        first = np.repeat(base - (rows.cumsum() - rows), rows) + np.arange(members.shape[0])
        prefix[:, members] = first, np.repeat(number, rows), np.repeat(rows, rows)
        merge[: which.shape[0], 3:6] = prefix[:, which].T
    plan.table.copy_(host, non_blocking=True)


def _write(
    lanes: NDArray[np.int32], records: NDArray[np.int32], work: _Work, pieces: Pieces, state: I64, tokens: int
) -> None:
    number, owner = pieces.owner.shape[0], pieces.owner
    record = records.reshape(-1, PIECE)
    record[number:, 2:4] = 0  # no tokens
    begin = work.begin[owner]
    columns = (work.query[owner], work.rows[owner], begin + pieces.begin, begin + pieces.end, state)
    for column, values in enumerate(columns):
        record[:number, column] = values
    blocks = np.zeros(number + 1, np.int64)
    np.cumsum(-((pieces.begin - pieces.end) // tokens), out=blocks[1:])
    lane = lanes.reshape(-1, LANE)
    lane[:, 0] = pieces.lanes[:-1]
    lane[:, 1] = np.diff(pieces.lanes)
    lane[:, 2] = np.diff(blocks[pieces.lanes])


def _index_of(pieces: Pieces) -> I64:
    """Of each piece, among those of its request."""
    return np.arange(pieces.owner.shape[0]) - (pieces.number.cumsum() - pieces.number)[pieces.owner]


def tile_for(spec: AttentionSpec) -> Tile:
    """The tile measured to be fastest for heads of this width. Its shared memory allows its `residents`: one
    too many, and the last lanes begin when the first have ended."""
    group, width = spec.q_heads // spec.kv_heads, max(spec.head_dim, spec.v_dim)
    if width > 256:
        return Tile(16, 32, 4, 3, 2) if group <= 16 else Tile(32 if group <= 32 else 64, 32, 8, 3, 1)
    if group > 16:
        return Tile(32 if group <= 32 else 64, 64 if width <= 128 else 32, 4, 3, 2)
    if width <= 64:
        return Tile(16, 64, 2, 4, 4 if group <= 8 else 3, narrow=True)
    if width > 128:
        return Tile(16, 32, 4, 3, 2, narrow=True)
    return Tile(16, 64, 2, 3, 3, narrow=True) if group <= 4 else Tile(16, 32, 2, 3, 4, narrow=True)


def float8_tile(tile: Tile) -> Tile:
    """A narrow tile over caches that are read four elements a word. Expected to be best, not measured."""
    return tile._replace(stages=4)


def shared_tile_for(spec: AttentionSpec) -> Tile:
    width = max(spec.head_dim, spec.v_dim)
    return Tile(64 if width > 256 else 128, 64 if width <= 128 else 32, 8, 3, 1)


def tile_at(tile: Tile, dtype: torch.dtype, cached: torch.dtype, cramped: bool) -> Tile:
    """What becomes of a tile, which is chosen for 16 bits, with queries and caches of these dtypes.

    cramped: a wide tile would not fit in shared memory, nor a narrow one of float32.
    """
    single = dtype == torch.float32
    if (cramped and single) if tile.narrow else (cramped or single):
        return tile._replace(rows=16, tokens=16, stages=2, narrow=False)
    if tile.narrow and cached.itemsize == 1 and not single:  # widening takes as long as reading
        return tile._replace(tokens=32, warps=2, stages=4, narrow=False)
    return tile
