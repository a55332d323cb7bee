# SPDX-License-Identifier: Apache-2.0
"""`Batch` -> `Inputs`: the host works out lengths and indices, the device looks up what only it knows.

`Rows` is what the device remembers of each page-table row between two passes: the slots of its tokens, and
the token sampled last, so that a pass can begin before the host has seen the end of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sgl_kernels import AttentionBackend, AttentionSpec, PagedLayout
from torch import Tensor

from sgl_runtime.layers import Inputs, KVPool
from sgl_runtime.messages import I32, I64, Batch
from sgl_runtime.runner.transfer import to_device

_NOTHING: I32 = np.empty(0, np.int32)
_ZERO: I32 = np.zeros(1, np.int32)


class Rows:
    """What the device remembers of each row: a page table [rows, width] and the last token [rows]."""

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.width = width
        self.table = torch.zeros(
            rows * width, dtype=torch.int32, device=device
        )  # flat: row * width + position
        self.last_token = torch.zeros(rows, dtype=torch.int64, device=device)

    def remember(self, rows: Tensor, tokens: Tensor) -> None:
        """`tokens` [m] were sampled for `rows` [m].

        No valid token, -1, becomes 0: it may be embedded before the scheduler learns of it.
        """
        self.last_token.index_copy_(0, rows, tokens.to(torch.int64).clamp_(min=0))


@dataclass(frozen=True)
class Assembled:
    """A batch on the device."""

    inputs: Inputs
    sampled_rows: Tensor  # [m] int64: the rows of those that get a token
    last: Tensor | None  # [m] int64: the last computed token of each, among the T; None: they are the T
    input_index: Tensor  # [p] int64: tokens whose successor's log-probability is asked for
    input_targets: Tensor  # [p] int64: those successors


class Assembler:
    """Turns batches into inputs of a model whose layers have these `specs`."""

    def __init__(
        self,
        rows: Rows,
        kv: KVPool,
        attention: AttentionBackend,
        specs: Sequence[AttentionSpec],
        device: torch.device,
    ) -> None:
        self._rows = rows
        self._kv = kv
        self._attention = attention
        self._specs = specs
        self._device = device

    def __call__(self, batch: Batch) -> Assembled:
        """Write the batch's slots into the page table and describe its pass. Host and device do not wait."""
        assert batch.kv_lens.max() <= self._rows.width, (
            "a request has no more tokens than a row of the page table"
        )
        q_ends, kv_ends = batch.q_lens.cumsum(), batch.kv_lens.cumsum()
        row_starts = batch.rows.astype(np.int64) * self._rows.width
        positions = _ranges(batch.kv_lens - batch.q_lens, batch.q_lens, q_ends)
        carried = np.flatnonzero(batch.tokens < 0)
        # In a pass of single tokens, their hidden states are those of the last tokens.
        all_last = np.array_equal(batch.sampled, np.arange(batch.tokens.size))
        long = to_device(
            {
                "tokens": batch.tokens,
                "positions": positions,
                "slots": batch.slots,
                "entries": self._entries(batch, np.repeat(row_starts, batch.q_lens) + positions),
                "kv_shift": row_starts - (kv_ends - batch.kv_lens),
                "carried": carried,
                "carried_rows": np.repeat(batch.rows, batch.q_lens)[carried],
                "sampled_rows": batch.rows[batch.sampled],
                "last": _NOTHING if all_last else q_ends[batch.sampled] - 1,
                "input_index": _NOTHING if batch.logprobs is None else batch.logprobs.input_index,
                "input_targets": _NOTHING if batch.logprobs is None else batch.logprobs.input_targets,
            },
            np.int64,
            self._device,
        )
        short = to_device(
            {
                "slots": np.concatenate([*(prefix.slots for prefix in batch.prefixes), batch.slots]),
                "q_indptr": np.concatenate([_ZERO, q_ends]),
                "kv_indptr": np.concatenate([_ZERO, kv_ends]),
                "kv_lens": batch.kv_lens,
            },
            np.int32,
            self._device,
        )
        self._rows.table.index_copy_(0, long["entries"], short["slots"])
        if carried.size:
            sampled = self._rows.last_token.index_select(0, long["carried_rows"])
            long["tokens"].index_copy_(0, long["carried"], sampled)
        layout = PagedLayout(
            q_indptr=short["q_indptr"],
            kv_indptr=short["kv_indptr"],
            kv_slots=self._kv_slots(long["kv_shift"], short["kv_lens"], int(kv_ends[-1])),
            q_lens=tuple(batch.q_lens.tolist()),
            kv_lens=tuple(batch.kv_lens.tolist()),
        )
        return Assembled(
            inputs=self._inputs(long["tokens"], long["positions"], long["slots"], layout),
            sampled_rows=long["sampled_rows"],
            last=None if all_last else long["last"],
            input_index=long["input_index"],
            input_targets=long["input_targets"],
        )

    def _entries(self, batch: Batch, computed: I64) -> I64:
        """Page-table entries of the prefixes, then of the tokens computed in this pass."""
        if not batch.prefixes:
            return computed
        starts = [prefix.row * self._rows.width for prefix in batch.prefixes]
        known = [
            np.arange(start, start + prefix.slots.size)
            for start, prefix in zip(starts, batch.prefixes, strict=True)
        ]
        return np.concatenate([*known, computed])

    def _kv_slots(self, shift: Tensor, kv_lens: Tensor, total: int) -> Tensor:
        """Slots of all visible tokens, request after request [total]: a gather whose size the host knows.

        shift [n]: the page-table entry of each request's first token, less the visible tokens before it.
        """
        entries = torch.arange(total, device=self._device)
        entries += torch.repeat_interleave(shift, kv_lens, output_size=total)
        return self._rows.table.index_select(0, entries)

    def _inputs(self, tokens: Tensor, positions: Tensor, slots: Tensor, layout: PagedLayout) -> Inputs:
        """With one plan per layer; layers of one spec share theirs."""
        plans = {spec: self._attention.plan(layout, spec) for spec in dict.fromkeys(self._specs)}
        return Inputs(
            tokens, positions, slots, self._kv, self._attention, [plans[spec] for spec in self._specs]
        )


def _ranges(first: NDArray[Any], lens: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """first[0] … first[0]+lens[0]-1, first[1] …: consecutive numbers for every request."""
    if lens.size == ends[-1]:
        return first
    return np.repeat(first - (ends - lens), lens) + np.arange(ends[-1])
