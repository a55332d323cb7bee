# SPDX-License-Identifier: Apache-2.0
"""`Batch` -> `Pass`: what the host says of one forward pass, and what the device remembers of each row.

The host works out lengths and indices, in one array that travels in one copy. The device looks up what only
it knows: `Rows` keeps the slots of each request's tokens and the token sampled last, so that a pass can begin
before the host has seen the end of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sgl_kernels import PagedLayout, SharedPrefix
from torch import Tensor

from sgl_runtime.messages import I32, Batch, Prefix

# What is said of each token, one array [T] each.
TOKEN, POSITION, SLOT, ROW = range(4)


class Rows:
    """A page table [rows + 1, width] and the last token of each row [rows + 1].

    The last row is nobody's: what fills a pass up to the size of a CUDA graph lies there.
    """

    def __init__(self, rows: int, width: int, device: torch.device) -> None:
        self.width = width
        self.nobody = rows
        self.table = torch.zeros((rows + 1) * width, dtype=torch.int32, device=device)
        self.last_token = torch.zeros(rows + 1, dtype=torch.int32, device=device)

    def enter(self, prefixes: Sequence[Prefix]) -> None:
        """Requests entered these rows, with tokens that are already computed."""
        cached = [prefix for prefix in prefixes if prefix.slots.size]
        if not cached:
            return
        slots = torch.from_numpy(np.concatenate([prefix.slots for prefix in cached]))
        if self.table.is_cuda:
            slots = slots.pin_memory()
        for prefix, own in zip(cached, slots.split([p.slots.size for p in cached]), strict=True):
            start = prefix.row * self.width
            self.table[start : start + own.shape[0]].copy_(own, non_blocking=True)

    def note(self, ids: Tensor) -> None:
        """Where a pass's tokens lie, ids [4, T]; before its attention is planned."""
        entries = ids[ROW].long().mul_(self.width).add_(ids[POSITION])
        self.table.index_copy_(0, entries, ids[SLOT])

    def tokens(self, ids: Tensor) -> Tensor:
        """The tokens of a pass, ids [4, T], with those that the host does not know: [T] int32."""
        return torch.where(ids[TOKEN] < 0, self.last_token.index_select(0, ids[ROW]), ids[TOKEN])

    def remember(self, rows: Tensor, tokens: Tensor) -> None:
        """`tokens` [m] were sampled for `rows` [m].

        No valid token, -1, becomes 0: it may be embedded before the scheduler learns of it.
        """
        self.last_token.index_copy_(0, rows.long(), tokens.clamp(min=0))


@dataclass(frozen=True)
class Pass:
    """One forward pass, as the host describes it."""

    ids: NDArray[np.int32]  # [4, T]
    layout: PagedLayout  # its slots are the page table
    last: I32 | None  # [m] the token of each sampled request, among the T; None: they are the T
    # [w] ascending: tokens whose hidden states the batch asks for, one at least; None: of all T.
    asked: I32 | None = None

    @property
    def requests(self) -> int:
        return len(self.layout.q_lens)

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]

    def owners(self, tokens: I32 | Sequence[int]) -> list[int]:
        """Whose each of these tokens is, of the T: indices of requests."""
        owners: list[int] = np.searchsorted(np.cumsum(self.layout.q_lens), tokens, side="right").tolist()
        return owners

    def layout_of(self, tokens: I32) -> PagedLayout:
        """Of a query of each of these tokens, of the T, alone."""
        assert self.layout.kv_starts is not None, "slots are those of a page table"
        kv_starts = tuple(self.layout.kv_starts[index] for index in self.owners(tokens))
        kv_lens = tuple((self.ids[POSITION, tokens] + 1).tolist())
        return PagedLayout(self.layout.kv_slots, (1,) * len(tokens), kv_lens, kv_starts)

    def place(self, tokens: I32) -> I32:
        """Where among those asked for these tokens, of the T, are found."""
        return tokens if self.asked is None else np.searchsorted(self.asked, tokens).astype(np.int32)


def of_nobody(ids: NDArray[np.int32], rows: Rows) -> None:
    """Make these columns of ids tokens of nobody: their keys go nowhere, and nobody attends to them."""
    ids[TOKEN] = ids[POSITION] = 0
    ids[SLOT] = -1
    ids[ROW] = rows.nobody


def describe(batch: Batch, rows: Rows) -> Pass:
    """The pass that a batch asks for, of requests that have entered their `rows`."""
    assert batch.kv_lens.max() <= rows.width, "a request has no more tokens than a row of the page table"
    q_ends = batch.q_lens.cumsum()
    ids = np.empty((4, batch.tokens.size), np.int32)
    ids[TOKEN] = batch.tokens
    ids[POSITION] = _ranges(batch.kv_lens - batch.q_lens, batch.q_lens, q_ends)
    ids[SLOT] = batch.slots
    ids[ROW] = np.repeat(batch.rows, batch.q_lens)
    # In a pass of single tokens, their hidden states are those of the last tokens.
    all_last = np.array_equal(batch.sampled, np.arange(batch.tokens.size))
    layout = PagedLayout(
        kv_slots=rows.table,
        q_lens=tuple(batch.q_lens.tolist()),
        kv_lens=tuple(batch.kv_lens.tolist()),
        kv_starts=tuple((batch.rows.astype(np.int64) * rows.width).tolist()),
        shared=tuple(SharedPrefix(each.first, each.rows, each.tokens) for each in batch.shared),
    )
    if all_last:
        return Pass(ids, layout, None)
    last = (q_ends[batch.sampled] - 1).astype(np.int32)
    of_prompt = () if batch.logprobs is None else batch.logprobs.input_index
    asked = np.union1d(last, of_prompt).astype(np.int32)
    return Pass(ids, layout, last, asked if asked.size else np.zeros(1, np.int32))


def _ranges(first: NDArray[Any], lens: NDArray[Any], ends: NDArray[Any]) -> NDArray[Any]:
    """first[0] … first[0]+lens[0]-1, first[1] …: consecutive numbers for every request."""
    if lens.size == ends[-1]:
        return first
    return np.repeat(first - (ends - lens), lens) + np.arange(ends[-1])
