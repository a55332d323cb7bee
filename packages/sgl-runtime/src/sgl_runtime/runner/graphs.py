# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a pass of few tokens as one launch, because launching its kernels takes longer than they do.

A graph is for a number of tokens, and a pass is filled up to the next one there is; the steps between sizes
are small beside the sizes. There are graphs for decoding requests, one token each, for prompts, or parts of
them, and for both together: whatever a pass does not need would be launched in vain. What changes from pass
to pass lies in buffers at fixed addresses: the ids of the tokens and the plans of attention.

All graphs take their memory from one pool: one runs at a time, and what it returns is read before the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from operator import sub
from typing import NamedTuple

import numpy as np
import torch
from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix
from sgl_kernels.attention import Plan
from torch import Tensor

from sgl_runtime.runner.assemble import Pass, of_nobody
from sgl_runtime.runner.passes import Passes
from sgl_runtime.runner.transfer import aligned

# Of passes with prompts those that take longer to launch than to compute have graphs, at least and at most:
_LEAST_TOKENS, _MOST_TOKENS = 1024, 2048
_LAUNCH_SECONDS = 0.001  # of a layer, kernel by kernel (0.7 to 1.2 ms, and 1.3 to 1.8 with experts)
_RATE = 4e14  # operations a second (an H200, 16 bits, so few tokens)
_QUERIES = 16  # of each of several prompts, for which the tiles of attention are chosen
_SHORT = 1000  # tokens cached before a prompt; after more of them attention has a launch of its own for a few
_OVER = 4  # a pass sees at most so many times the tokens that the KV pool holds, since prefixes are shared


class Kind(IntEnum):
    """Of which requests a pass consists."""

    DECODE = 0  # one token each
    SHARED = 1  # the same, and prefixes that requests share are read once
    PROMPTS = 2  # several tokens each, after few or none that are cached
    MIXED = 3  # any


class Shape(NamedTuple):
    """What a graph is for."""

    tokens: int
    kind: Kind

    @property
    def several(self) -> int:
        """Most requests with several tokens."""
        return max(16, self.tokens // 8)


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    buffer: Tensor  # [4, ≥ tokens]
    ids: Tensor  # [4, tokens] of it
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
    sizes = (
        32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 640, 768, 896, _LEAST_TOKENS,
        1152, 1280, 1408, 1536, 1792, _MOST_TOKENS,
    )  # fmt: skip
    return [size for size in sizes if size <= most]


def most_tokens(layers: int, products: int) -> int:
    """Of a pass with prompts that is worth a graph, for a model in which a token costs so many
    multiplications on a rank. Nothing is measured: the same server has the same graphs every time."""
    longer = layers * _LAUNCH_SECONDS * _RATE / (2 * max(1, products))
    return int(min(max(longer, _LEAST_TOKENS), _MOST_TOKENS))


class Graphs:
    """The graphs of one runner. Everything runs on the current stream, which is not the default one."""

    def __init__(
        self,
        passes: Passes,
        *,
        slots: int,
        rows: int,
        width: int,
        most: int,
    ) -> None:
        """slots, rows, width: of the KV pool and the page table. most: tokens of a pass with prompts that has
        a graph; 0 where the attention backend refills plans of decoding requests alone."""
        self._passes = passes
        self._rows = rows
        self._tokens = min(rows * width, _OVER * slots)
        self._width = width
        self._decode = decode_sizes(rows)
        self._mixed = mixed_sizes(min(most, rows * width))
        self._graphs: dict[Shape, _Graph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def prepare(self, progress: Callable[[int, int], None] | None) -> None:
        """Capture all but the graphs for shared prefixes, the largest first: the others find room in its
        memory. progress: (captured, of how many)."""
        shapes = [Shape(size, Kind.DECODE) for size in self._decode]
        shapes += [Shape(size, kind) for size in self._mixed for kind in (Kind.PROMPTS, Kind.MIXED)]
        for done, shape in enumerate(sorted(shapes, reverse=True)):
            if progress is not None:
                progress(done, len(shapes))
            self._graphs[shape] = self._capture(shape)
        if progress is not None:
            progress(len(shapes), len(shapes))

    def shape_of(self, step: Pass) -> Shape | None:
        """The smallest graph that a pass fits; None if there is none."""
        layout = step.layout
        several = sum(q_len > 1 for q_len in layout.q_lens)
        sizes = self._mixed if several else self._decode
        if not sizes or step.tokens > sizes[-1] or sum(layout.kv_lens) > self._tokens:
            return None
        size = sizes[int(np.searchsorted(sizes, step.tokens))]
        if not several:
            return Shape(size, Kind.SHARED if layout.shared else Kind.DECODE)
        cached = max(map(sub, layout.kv_lens, layout.q_lens))
        prompts = several == step.requests and cached < _SHORT
        shape = Shape(size, Kind.PROMPTS if prompts else Kind.MIXED)
        return shape if several <= shape.several else None

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
        filled = self._of_nobody(shape)
        filled.numpy()[:, : step.tokens] = step.ids
        graph.buffer.copy_(filled, non_blocking=True)
        self._passes.plan(graph.ids, step.layout, graph.plans)
        graph.graph.replay()
        return graph.ids[:, : step.tokens], graph.hidden[: step.tokens]

    def _of_nobody(self, shape: Shape) -> Tensor:
        filled = torch.empty(4, aligned(shape.tokens), dtype=torch.int32, pin_memory=True)
        of_nobody(filled.numpy(), self._passes.rows)
        return filled

    def _capture(self, shape: Shape) -> _Graph:
        """Kernels are launched once before: what is compiled or allocated for good at first use must not be
        in a capture."""
        buffer = self._of_nobody(shape).to(self._passes.rows.table.device, non_blocking=True)
        ids = buffer[:, : shape.tokens]
        plans = self._passes.plan(ids, self._largest(shape))
        self._passes.plan(ids, self._least(shape), plans)
        self._passes.compute(ids, plans)
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            hidden = self._passes.compute(ids, plans)
        finally:
            graph.capture_end()
        return _Graph(graph, buffer, ids, plans, hidden)

    def _largest(self, shape: Shape) -> PagedLayout:
        """As many requests of each kind as any pass of the shape has, all at once, and as many tokens.

        No prompt in it is a few queries after a long prefix, of which the plan would take the other kernel.
        """
        prompts = (min(_QUERIES, self._width),) * shape.several
        if shape.kind == Kind.PROMPTS:
            return self._layout(prompts, (min(self._width, _QUERIES + _SHORT),) * shape.several)
        single = (1,) * min(shape.tokens, self._rows)
        seen = (min(self._width, max(2, -(-self._tokens // len(single)))),) * len(single)
        shared = (SharedPrefix(0, 2, 1),) if shape.kind != Kind.DECODE else ()
        if shape.kind != Kind.MIXED:
            return self._layout(single, seen, shared)
        return self._layout(single + prompts, seen + prompts, shared)

    def _least(self, shape: Shape) -> PagedLayout:
        """So many queries, which see nothing but themselves."""
        q_lens = (1,) * min(shape.tokens, self._rows)
        if shape.kind == Kind.PROMPTS:
            q_lens = (shape.tokens,)
        if shape.kind == Kind.MIXED:
            prompt = max(2, shape.tokens - len(q_lens))
            q_lens = (*q_lens[: shape.tokens - prompt], prompt)
        return self._layout(q_lens, q_lens)

    def _layout(
        self, q_lens: tuple[int, ...], kv_lens: tuple[int, ...], shared: tuple[SharedPrefix, ...] = ()
    ) -> PagedLayout:
        return PagedLayout(self._passes.rows.table, q_lens, kv_lens, (0,) * len(q_lens), shared)
