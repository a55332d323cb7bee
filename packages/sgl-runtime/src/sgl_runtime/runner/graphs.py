# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a pass of few tokens as one launch, because launching its kernels takes longer than they do.

A graph is for a number of tokens, and a pass is filled up to the next one there is; the steps between sizes
are small beside the sizes. There are graphs of decoding requests alone, one token each, and such that also
take a few prompts, or parts of them. What changes from pass to pass lies in buffers at fixed addresses: the
ids of the tokens and the plans of attention.

All graphs take their memory from one pool: one runs at a time, and what it returns is read before the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix
from sgl_kernels.attention import Plan
from torch import Tensor

from sgl_runtime.runner.assemble import POSITION, ROW, SLOT, TOKEN, Pass
from sgl_runtime.runner.passes import Passes

_EXTENDS = 16  # requests with several tokens in a pass of the second shape
_MOST_TOKENS = 1024  # of such a pass: more take longer to compute than to launch
_OVER = 4  # a pass sees at most so many times the tokens that the KV pool holds, since prefixes are shared


class Shape(NamedTuple):
    """What a graph is for."""

    tokens: int
    extends: bool  # up to _EXTENDS requests have several tokens
    shared: bool  # prefixes that requests share are read once


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    ids: Tensor  # [4, tokens]
    plans: dict[AttentionSpec, Plan]
    hidden: Tensor  # [tokens, hidden]


def decode_sizes(most: int) -> list[int]:
    """Numbers of requests, the last being `most`: at most an eighth more than asked for, and 8 ways to 8."""
    sizes = [*range(1, min(most, 8) + 1)]
    while sizes[-1] < most:
        step = max(2, 1 << (int(math.log2(sizes[-1])) - 3))
        sizes.append(min(most, sizes[-1] + step))
    return sizes


def mixed_sizes(most: int) -> list[int]:
    """Numbers of tokens of passes with prompts, `most` at most."""
    sizes = (32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, _MOST_TOKENS)
    return [size for size in sizes if size <= most]


class Graphs:
    """The graphs of one runner. Everything runs on the current stream, which is not the default one."""

    def __init__(
        self,
        passes: Passes,
        *,
        slots: int,
        rows: int,
        width: int,
        extends: bool,
    ) -> None:
        """slots, rows, width: of the KV pool and the page table. extends: whether the attention backend can
        refill plans of more than decoding requests."""
        self._passes = passes
        self._rows = rows
        self._tokens = min(rows * width, _OVER * slots)
        self._width = width
        self._decode = decode_sizes(rows)
        self._mixed = mixed_sizes(_MOST_TOKENS) if extends else []
        self._graphs: dict[Shape, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def prepare(self, progress: Callable[[int, int], None] | None) -> None:
        """Capture all but the graphs for shared prefixes, the largest first: the others find room in its
        memory. progress: (captured, of how many)."""
        shapes = [Shape(size, False, False) for size in self._decode]
        shapes += [Shape(size, True, False) for size in self._mixed]
        for done, shape in enumerate(sorted(shapes, reverse=True)):
            if progress is not None:
                progress(done, len(shapes))
            self._graphs[shape] = self._capture(shape)
        if progress is not None:
            progress(len(shapes), len(shapes))

    def shape_of(self, step: Pass) -> Shape | None:
        """The smallest graph that a pass fits; None if there is none."""
        extends = step.tokens - step.requests > 0
        sizes = self._mixed if extends else self._decode
        if not sizes or step.tokens > sizes[-1] or sum(step.layout.kv_lens) > self._tokens:
            return None
        if extends and sum(q_len > 1 for q_len in step.layout.q_lens) > _EXTENDS:
            return None
        size = sizes[int(np.searchsorted(sizes, step.tokens))]
        return Shape(size, extends, bool(step.layout.shared) and not extends)

    def run(self, step: Pass) -> tuple[Tensor, Tensor] | None:
        """The pass by its graph, captured now if need be; None if it fits no graph.

        Returns ids [4, T] and hidden states [T, hidden], which are good until the next replay.
        """
        shape = self.shape_of(step)
        if shape is None:
            return None
        graph = self._graphs.get(shape)
        if graph is None:
            graph = self._graphs[shape] = self._capture(shape)
        filled = torch.empty(4, shape.tokens, dtype=torch.int32, pin_memory=True)
        ids = filled.numpy()
        ids[:, : step.tokens] = step.ids
        self._pad(ids[:, step.tokens :])
        graph.ids.copy_(filled, non_blocking=True)
        self._passes.plan(graph.ids, step.layout, graph.plans)
        graph.graph.replay()
        return graph.ids[:, : step.tokens], graph.hidden[: step.tokens]

    def _pad(self, ids: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> None:
        """Tokens of nobody: their keys go nowhere, and nobody attends to them."""
        ids[TOKEN] = ids[POSITION] = 0
        ids[SLOT] = -1
        ids[ROW] = self._passes.rows.nobody

    def _capture(self, shape: Shape) -> _Graph:
        """Kernels are launched once before: what is compiled or allocated for good at first use must not be
        in a capture."""
        filled = np.empty((4, shape.tokens), np.int32)
        self._pad(filled)
        ids = torch.from_numpy(filled).to(self._passes.rows.table.device)
        plans = self._passes.plan(ids, self._largest(shape))
        self._passes.plan(ids, self._least(shape), plans)

        self._passes.compute(ids, plans)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            hidden = self._passes.compute(ids, plans)
        finally:
            graph.capture_end()
        return _Graph(graph, ids, plans, hidden)

    def _largest(self, shape: Shape) -> PagedLayout:
        """As many requests of each kind as any pass of the shape has, all at once, and as many tokens."""
        q_lens = (1,) * min(shape.tokens, self._rows)
        if shape.extends:
            q_lens += (-(-shape.tokens // _EXTENDS),) * _EXTENDS
        kv_len = min(self._width, max(2, *q_lens, -(-self._tokens // len(q_lens))))
        shared = (SharedPrefix(0, 2, 1),) if shape.shared else ()
        return self._layout(q_lens, (kv_len,) * len(q_lens), shared)

    def _least(self, shape: Shape) -> PagedLayout:
        """So many queries, which see nothing but themselves."""
        q_lens = (1,) * min(shape.tokens, self._rows)
        if shape.extends:
            several = max(2, shape.tokens - len(q_lens))
            q_lens = (*q_lens[: shape.tokens - several], several)
        return self._layout(q_lens, q_lens, ())

    def _layout(
        self, q_lens: tuple[int, ...], kv_lens: tuple[int, ...], shared: tuple[SharedPrefix, ...]
    ) -> PagedLayout:
        return PagedLayout(self._passes.rows.table, q_lens, kv_lens, (0,) * len(q_lens), shared)
