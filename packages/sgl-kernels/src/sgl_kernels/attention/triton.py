# SPDX-License-Identifier: Apache-2.0
"""Paged attention in Triton: requests with one query go to one kernel, those with more to another.

Knows how a batch is divided between the two, and what is true of both; how either does its part is theirs.
Few queries after a long prefix go to the first, query by query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from operator import sub
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels._check import require
from sgl_kernels._triton.decode import DecodePlan, plan_decode, run_decode
from sgl_kernels._triton.extend import ExtendPlan, plan_extend, run_extend, supports_extend
from sgl_kernels._triton.few_queries import few_queries, one_query_each
from sgl_kernels.attention.arguments import Size, check_layout, check_no_larger, check_run, kv_starts, starts
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout, Plan
from sgl_kernels.attention.splits import I64

_MOST = 576  # elements of a key: the latent vector of DeepSeek-V2 and its rotary part


@dataclass
class _TritonPlan(Plan):
    spec: AttentionSpec
    made_for: Size
    queries: int
    decode: DecodePlan | None
    extend: ExtendPlan | None


class TritonAttention:
    """The backend called "triton". One `run` of a plan at a time: its launches share a workspace."""

    name = "triton"
    refills: Literal["none", "decode", "any"] = "any"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def supports(self, spec: AttentionSpec) -> bool:
        """Heads up to 256 wide, or those of multi-head latent attention; a scale above 0."""
        widths = spec.v_dim <= 256 >= spec.head_dim or spec.v_dim <= 512 <= spec.head_dim <= _MOST
        return widths and supports_extend(spec)

    def plan(self, layout: PagedLayout, spec: AttentionSpec, into: Plan | None = None) -> Plan:
        size = check_layout(layout)
        _check_shared(layout)
        require(self.supports(spec), "spec", f"the backend 'triton' does not support {spec}")
        q_lens, kv_lens = np.array(layout.q_lens, np.int64), np.array(layout.kv_lens, np.int64)
        first = starts(q_lens), kv_starts(layout)
        several = q_lens > 1
        few = few_queries(spec, q_lens, kv_lens, layout.kv_slots.device)
        if into is None:
            apart = several & ~few
            decode = _plan_decode(layout, spec, ~apart, first, bool(few.any())) if not apart.all() else None
            extend = _plan_extend(layout, spec, apart.nonzero()[0], first) if apart.any() else None
            return _TritonPlan(spec, size, size.queries, decode, extend)
        require(isinstance(into, _TritonPlan) and into.spec == spec, "into", "is of another backend or spec")
        assert isinstance(into, _TritonPlan)
        check_no_larger(size, into.made_for)
        # A graph has the launches that it was captured with: either kernel computes what the other would.
        if into.decode is None:
            apart = np.ones_like(several)
        elif into.extend is None:
            apart = np.zeros_like(several)  # made with room for every query
        else:
            room = into.decode.shared_lanes and q_lens[~several | few].sum() <= into.decode.most
            apart = several & ~few if room else several
        if into.extend is not None:
            _plan_extend(layout, spec, apart.nonzero()[0], first, into.extend)
        if into.decode is not None:
            _plan_decode(layout, spec, ~apart, first, bool((several & ~apart).any()), into.decode)
        into.queries = size.queries
        return into

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
        assert isinstance(plan, _TritonPlan), "a plan belongs to the backend that made it"
        check_run(plan.spec, plan.queries, q, k_cache, v_cache)
        run = _untraced() if torch.compiler.is_compiling() else _run
        return run(plan, q, k_cache, v_cache, k_scale, v_scale)


def _run(
    plan: _TritonPlan, q: Tensor, k_cache: Tensor, v_cache: Tensor, k_scale: float, v_scale: float
) -> Tensor:
    out = torch.empty(plan.queries, plan.spec.q_heads, plan.spec.v_dim, dtype=q.dtype, device=q.device)
    if plan.extend is not None:
        run_extend(plan.extend, q, k_cache, v_cache, out, k_scale, v_scale)
    if plan.decode is not None:
        run_decode(plan.decode, q, k_cache, v_cache, out, k_scale, v_scale)
    return out


@cache
def _untraced() -> Callable[..., Tensor]:
    """torch.compile cannot trace the launches: a compiled function is cut in two here. Made when something is
    compiled, since this imports the compiler, which takes seconds of a cold start."""
    return torch.compiler.disable(_run)


def _plan_decode(
    layout: PagedLayout,
    spec: AttentionSpec,
    chosen: NDArray[np.bool_],
    first: tuple[I64, I64],
    several: bool,
    into: DecodePlan | None = None,
) -> DecodePlan:
    """several: some of the chosen requests have more than one query."""
    if several:
        single, requests, queries, tokens = one_query_each(layout, chosen, first)
        return plan_decode(single, spec, requests, queries, tokens, into)
    return plan_decode(layout, spec, chosen.nonzero()[0], *first, into)


def _plan_extend(
    layout: PagedLayout,
    spec: AttentionSpec,
    requests: I64,
    first: tuple[I64, I64],
    into: ExtendPlan | None = None,
) -> ExtendPlan:
    return plan_extend(layout, spec, requests.tolist(), first[0].tolist(), first[1].tolist(), into)


def _check_shared(layout: PagedLayout) -> None:
    """Shared prefixes are disjoint, ascending, and shorter than what each of their requests has cached."""
    end = 0
    for first, rows, tokens in layout.shared:
        require(
            end <= first and rows > 0, "shared", "groups must be ascending and disjoint, of a row or more"
        )
        end = first + rows
        require(end <= len(layout.q_lens), "shared", f"a group ends at request {end} of {len(layout.q_lens)}")
        cached = min(map(sub, layout.kv_lens[first:end], layout.q_lens[first:end]))
        require(0 <= tokens <= cached, "shared", f"{tokens} tokens, of which a request has {cached} cached")
