# SPDX-License-Identifier: Apache-2.0
"""Paged attention in torch, on any device: gather keys and values, multiply, softmax, multiply.

The definition of every other backend, and the backend of a CPU.

Requests with one query are computed together, in buckets of similar length; a request with more is computed
alone, a block of queries at a time, so that the [q, kv] scores of a whole prompt never exist. The gather puts
heads before tokens: a batched product reads [heads, tokens, dim] without another copy. Scores have the dtype
of the queries, as in any attention made of two products; sums inside a product and inside the softmax are
float32. Caches in float8 are widened after the gather; their scales go into the scores and the outputs. What
a layout says about shared prefixes is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import add
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._check import require
from sgl_kernels.attention.arguments import Size, check_layout, check_no_larger, check_run, kv_starts, starts
from sgl_kernels.attention.buckets import partition
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout, Plan

# From measurements on a CPU (bench/cpu.py); the first three are elements of gathered keys or values.
_CALL_COST = 1 << 19  # the calls of one more bucket take as long as this much padding
_BUCKET_LIMIT = 1 << 22  # gathered at once for several requests; one request may have more
_FUSED_LIMIT = 1 << 17  # up to this, one fused call is faster than two products
_WIDTH_STEP = 16  # tokens; a product of a new shape is prepared anew, which should not happen at every step
_SCORES_LIMIT = 1 << 23  # scores at once: a block has fewer queries when there are many keys
_BLOCK = 128  # queries in a block


@dataclass
class _Bucket:
    """B requests with one query each, padded to L tokens."""

    queries: Tensor | None  # [B] int64, which of the Σq; None: these B are all there are, in order
    rows: int  # B
    width: int  # L
    fused: bool
    first_slot: int | None  # of a single request whose slots are consecutive: no gather
    index: Tensor | None  # [B * hk * L] int64, rows of a cache seen as [S * hk, d]; None with first_slot
    mask: Tensor | None  # [B * hk, 1, L] (fused: [B, 1, 1, L]), -inf on padding; None: all L tokens long


@dataclass(frozen=True)
class _Block:
    """Queries [start, stop) of a request, and the tokens [low, high) of which each sees some."""

    start: int
    stop: int
    low: int
    high: int
    lead: int | None  # with a window, query start + r does not see the first max(0, r - lead) of those tokens


@dataclass(frozen=True)
class _Extend:
    """One request with several queries."""

    start: int  # of its queries, among the Σq
    stop: int
    index: Tensor  # [hk * tokens] int64, where tokens are those that some query sees
    blocks: tuple[_Block, ...]


@dataclass
class _ReferencePlan(Plan):
    spec: AttentionSpec
    made_for: Size
    queries: int
    buckets: tuple[_Bucket, ...]
    extends: tuple[_Extend, ...]


class _Scratch:
    """What runs of one dtype share: a workspace for gathered keys, then values, and the masks of a block."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.workspace = torch.empty(_BUCKET_LIMIT, dtype=dtype, device=device)
        hidden = torch.full((_BLOCK, _BLOCK), float("-inf"), dtype=dtype, device=device)
        self.above = hidden.triu(1)  # [r, c]: -inf where c > r
        self.below = hidden.tril(-1)  # [r, c]: -inf where c < r


class ReferenceAttention:
    """The backend called "reference". One `run` at a time: they share a workspace."""

    name = "reference"
    refills: Literal["none", "decode", "any"] = "none"

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._scratch: dict[torch.dtype, _Scratch] = {}

    def supports(self, spec: AttentionSpec) -> bool:
        if spec.window is not None and (spec.window < 1 or not spec.causal):
            return False
        return spec.q_heads % spec.kv_heads == 0

    def plan(self, layout: PagedLayout, spec: AttentionSpec, into: Plan | None = None) -> Plan:
        """As the protocol says, but not for CUDA graphs: the shapes of these products follow the lengths, so
        on a CUDA device `into` is refused with a ValueError."""
        size = check_layout(layout)
        single = [r for r, q_len in enumerate(layout.q_lens) if q_len == 1]
        q_starts = starts(layout.q_lens).tolist()
        kv_stops = list(map(add, kv_starts(layout).tolist(), layout.kv_lens))
        buckets = self._buckets(layout, spec, single, q_starts, kv_stops)
        extends = [
            _extend(layout, spec, q_starts[r], kv_stops[r], q_len, layout.kv_lens[r])
            for r, q_len in enumerate(layout.q_lens)
            if q_len > 1
        ]
        if into is None:
            return _ReferencePlan(spec, size, size.queries, tuple(buckets), tuple(extends))
        require(
            self._device.type != "cuda",
            "into",
            "the backend 'reference' makes a new plan for every CUDA step",
        )
        require(
            isinstance(into, _ReferencePlan) and into.spec == spec, "into", "is of another backend or spec"
        )
        assert isinstance(into, _ReferencePlan)
        check_no_larger(size, into.made_for)
        into.queries, into.buckets, into.extends = size.queries, tuple(buckets), tuple(extends)
        return into

    def _buckets(
        self,
        layout: PagedLayout,
        spec: AttentionSpec,
        requests: Sequence[int],
        q_starts: Sequence[int],
        kv_stops: Sequence[int],
    ) -> list[_Bucket]:
        window = spec.window or max(layout.kv_lens, default=0)
        lengths = [min(layout.kv_lens[r], window) for r in requests]
        groups = partition(
            lengths,
            call_cost=_CALL_COST // (spec.kv_heads * (spec.head_dim + spec.v_dim)),
            limit=_BUCKET_LIMIT // (spec.kv_heads * max(spec.head_dim, spec.v_dim)),
        )
        buckets = []
        for group in groups:
            queries = None
            if len(group) < len(layout.q_lens):
                queries = torch.tensor([q_starts[requests[i]] for i in group], device=self._device)
            stops = [kv_stops[requests[i]] for i in group]
            buckets.append(self._bucket(layout.kv_slots, spec, queries, stops, [lengths[i] for i in group]))
        return buckets

    def _bucket(
        self, slots: Tensor, spec: AttentionSpec, queries: Tensor | None, stops: list[int], lengths: list[int]
    ) -> _Bucket:
        """The requests whose visible tokens are the `lengths[b]` before `stops[b]` in `slots`."""
        rows, width, heads = len(lengths), max(lengths), spec.kv_heads
        fused = (
            rows * width * heads * spec.head_dim <= _FUSED_LIMIT
            and spec.softcap is None
            and spec.head_dim == spec.v_dim
        )
        if fused and rows == 1:
            own = slots[stops[0] - width : stops[0]]
            first_slot = _first_of_run(own)
            index = None if first_slot is not None else _head_rows(own[None], heads)
            return _Bucket(queries, rows, width, fused, first_slot, index, None)
        if not fused:
            width += -width % _WIDTH_STEP
        stop, length = torch.tensor([stops, lengths], device=self._device).unsqueeze(-1)
        position = torch.arange(width, device=self._device)
        # Padding repeats a request's last token: a slot that has been written, whose value is finite.
        own = slots[stop - length + position.minimum(length - 1)]
        mask = None
        if min(lengths) < width:
            mask = torch.zeros(rows, width, device=self._device)
            mask.masked_fill_(position >= length, float("-inf"))
            mask = mask[:, None, None] if fused else mask.repeat_interleave(heads, 0)[:, None]
        return _Bucket(queries, rows, width, fused, None, _head_rows(own, heads), mask)

    def run(
        self,
        plan: Plan,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        *,
        k_scale: float = 1.0,
        v_scale: float = 1.0,
    ) -> Tensor:
        assert isinstance(plan, _ReferencePlan), "a plan belongs to the backend that made it"
        check_run(plan.spec, plan.queries, q, k_cache, v_cache)
        scratch = self._scratch.get(q.dtype)
        if scratch is None:
            with torch.inference_mode(False):  # it may outlive the mode of this call
                scratch = self._scratch[q.dtype] = _Scratch(q.dtype, q.device)
        spec = plan.spec if k_scale == 1.0 else replace(plan.spec, scale=plan.spec.scale * k_scale)
        out = _run(plan, spec, scratch, q, k_cache, v_cache)
        return out if v_scale == 1.0 else out.mul_(v_scale)


def _extend(
    layout: PagedLayout, spec: AttentionSpec, q_start: int, kv_stop: int, q_len: int, kv_len: int
) -> _Extend:
    """The request whose queries begin at `q_start` and whose tokens end before `kv_stop` of the layout."""
    prefix = kv_len - q_len
    if spec.window is not None:
        prefix = min(prefix, spec.window - 1)  # what the first query sees beside itself
    tokens = prefix + q_len
    step = min(_BLOCK, max(1, _SCORES_LIMIT // (spec.q_heads * tokens)))
    blocks = []
    for start in range(0, q_len, step):
        stop, low, lead = min(start + step, q_len), 0, None
        if not spec.causal:
            blocks.append(_Block(start, stop, 0, kv_len, None))
            continue
        if spec.window is not None:
            low = max(0, prefix + start - spec.window + 1)
            lead = spec.window - 1 - (prefix + start - low)
        blocks.append(_Block(start, stop, low, prefix + stop, lead))
    index = _head_rows(layout.kv_slots[None, kv_stop - tokens : kv_stop], spec.kv_heads)
    return _Extend(q_start, q_start + q_len, index, tuple(blocks))


def _run(
    plan: _ReferencePlan, spec: AttentionSpec, scratch: _Scratch, q: Tensor, k_cache: Tensor, v_cache: Tensor
) -> Tensor:
    """The parts of a plan, one after another; `spec` is the plan's, with the scale of the keys."""
    if len(plan.buckets) + len(plan.extends) == 1:
        if plan.buckets:
            return _run_bucket(plan.buckets[0], spec, scratch, q, k_cache, v_cache)
        return _run_extend(plan.extends[0], spec, scratch, q, k_cache, v_cache)
    out = q.new_empty(q.shape[0], spec.q_heads, spec.v_dim)
    for bucket in plan.buckets:
        assert bucket.queries is not None, "one of several parts of a batch"
        some = q.index_select(0, bucket.queries)
        out.index_copy_(0, bucket.queries, _run_bucket(bucket, spec, scratch, some, k_cache, v_cache))
    for extend in plan.extends:
        some = q[extend.start : extend.stop]
        out[extend.start : extend.stop] = _run_extend(extend, spec, scratch, some, k_cache, v_cache)
    return out


def _run_bucket(
    bucket: _Bucket, spec: AttentionSpec, scratch: _Scratch, q: Tensor, k_cache: Tensor, v_cache: Tensor
) -> Tensor:
    """q [B, hq, d] -> [B, hq, dv]. The queries of one KV head are rows of one product."""
    if bucket.mask is not None and bucket.mask.dtype != q.dtype:
        bucket.mask = bucket.mask.to(q.dtype)  # in the first layer of a step
    if bucket.fused:
        return _run_fused(bucket, spec, q, k_cache, v_cache)
    heads = bucket.rows * spec.kv_heads
    q = q.reshape(heads, -1, spec.head_dim)
    k = _gather(k_cache, bucket.index, q.dtype, scratch.workspace).view(heads, bucket.width, -1)
    weights = _scores(q, k, spec, bucket.mask).softmax(-1)
    v = _gather(v_cache, bucket.index, q.dtype, scratch.workspace).view(
        heads, bucket.width, -1
    )  # where k was
    return torch.bmm(weights, v).view(bucket.rows, spec.q_heads, spec.v_dim)


def _run_fused(bucket: _Bucket, spec: AttentionSpec, q: Tensor, k_cache: Tensor, v_cache: Tensor) -> Tensor:
    rows, width, heads = bucket.rows, bucket.width, spec.kv_heads
    if bucket.first_slot is not None:
        run = slice(bucket.first_slot, bucket.first_slot + width)
        k, v = (cache[run].to(q.dtype).transpose(0, 1)[None] for cache in (k_cache, v_cache))
    else:
        k, v = (
            _gather(cache, bucket.index, q.dtype).view(rows, heads, width, -1) for cache in (k_cache, v_cache)
        )
    q = q.reshape(rows, heads, -1, spec.head_dim)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bucket.mask, scale=spec.scale)
    return out.reshape(rows, spec.q_heads, spec.v_dim)


def _run_extend(
    extend: _Extend, spec: AttentionSpec, scratch: _Scratch, q: Tensor, k_cache: Tensor, v_cache: Tensor
) -> Tensor:
    """q [n, hq, d] -> [n, hq, dv]."""
    heads, group = spec.kv_heads, spec.q_heads // spec.kv_heads
    q = q.unflatten(1, (heads, group)).transpose(0, 1).contiguous()  # [hk, n, group, d]
    k, v = (
        _gather(cache, extend.index, q.dtype).view(heads, -1, cache.shape[-1]) for cache in (k_cache, v_cache)
    )
    parts = []
    for block in extend.blocks:
        n = block.stop - block.start
        tokens = slice(block.low, block.high)
        scores = _scores(q[:, block.start : block.stop].flatten(1, 2), k[:, tokens], spec, None)
        by_query = scores.view(heads, n, group, -1)
        if spec.causal:
            by_query[..., -n:].add_(scratch.above[:n, None, :n])
        if block.lead is not None and block.lead < n - 1:
            by_query[..., : n - block.lead].add_(scratch.below[:n, None, block.lead : n])
        parts.append(torch.bmm(scores.softmax(-1), v[:, tokens]).view(heads, n, group, -1))
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return out.transpose(0, 1).reshape(-1, spec.q_heads, spec.v_dim)


def _scores(q: Tensor, k: Tensor, spec: AttentionSpec, mask: Tensor | None) -> Tensor:
    """q [b, n, d], k [b, L, d], mask broadcast to [b, n, L] or None -> [b, n, L]."""
    k = k.transpose(1, 2)
    if spec.softcap is not None:
        scores = torch.baddbmm(q[..., :1], q, k, beta=0, alpha=spec.scale / spec.softcap)
        scores.tanh_().mul_(spec.softcap)
        return scores if mask is None else scores.add_(mask)
    if mask is not None:
        return torch.baddbmm(mask, q, k, alpha=spec.scale)
    return torch.baddbmm(q[..., :1], q, k, beta=0, alpha=spec.scale)  # beta=0: its first argument is not read


def _head_rows(slots: Tensor, heads: int) -> Tensor:
    """slots [B, L] -> [B * heads * L] int64: the rows of their heads in a cache seen as [S * heads, d]."""
    return (slots.long()[:, None] * heads + torch.arange(heads, device=slots.device)[:, None]).flatten()


def _first_of_run(slots: Tensor) -> int | None:
    """The first of slots [L] if each is the successor of the one before. Looks only at what the host has."""
    if slots.device.type != "cpu":
        return None
    first = int(slots[0])
    if int(slots[-1]) - first != len(slots) - 1 or not bool((slots.diff() == 1).all()):
        return None
    return first


def _gather(
    cache: Tensor, index: Tensor | None, dtype: torch.dtype, workspace: Tensor | None = None
) -> Tensor:
    """Rows `index` of cache [S, heads, dim] seen as [S * heads, dim]; in the workspace if they fit."""
    assert index is not None, "there is a gather where there is no run of slots"
    slots, heads, dim = cache.shape
    stored = cache.dtype
    narrow = stored != dtype
    if narrow:
        cache = cache.view(torch.uint8)  # float8 has few operations of its own
    if slots > 1 and heads > 1 and cache.stride(0) != heads * cache.stride(1):
        gathered = cache[index // heads, index % heads]
    else:
        rows = cache.as_strided((slots * heads, dim), (cache.stride(0 if heads == 1 else 1), 1))
        size = index.shape[0] * dim
        if narrow or workspace is None or size > workspace.shape[0]:
            gathered = rows.index_select(0, index)
        else:
            gathered = torch.index_select(rows, 0, index, out=workspace[:size].view(-1, dim))
    return gathered.view(stored).to(dtype) if narrow else gathered
