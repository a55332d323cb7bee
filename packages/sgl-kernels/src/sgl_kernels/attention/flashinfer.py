# SPDX-License-Identifier: Apache-2.0
"""Paged attention by FlashInfer 0.6 (Ye et al., "FlashInfer", 2025): its batch wrappers behind our protocol.

Steps of one query a request go to the decode wrapper in its form for CUDA graphs, whose buffers stay where
they are; all other steps to the prefill wrapper, which FlashInfer plans anew for every step. This file is the
only one that knows FlashInfer's names. FlashInfer compiles a kernel for every combination of dtypes and
options when `plan` first meets it, for up to minutes, unless its package of compiled kernels is installed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sgl_kernels._backend import available
from sgl_kernels._check import require
from sgl_kernels.attention.arguments import Size, check_layout, check_no_larger, check_run
from sgl_kernels.attention.protocol import AttentionSpec, PagedLayout, Plan

_WORKSPACE = (
    256 << 20
)  # bytes for partial results; FlashInfer recommends 128 MiB and fails when it is too little
_WIDTHS = (64, 128, 256)  # of the heads that it has kernels for

_Dtypes = tuple[torch.dtype, torch.dtype]  # of q and the caches


@dataclass
class _FlashInferPlan(Plan):
    spec: AttentionSpec
    made_for: Size
    layout: PagedLayout
    dtypes: _Dtypes | None  # what FlashInfer has planned for
    wrapper: Any
    copied: torch.cuda.Event | None = None  # when the wrapper's host buffer may be written again


class FlashInferAttention:
    """The backend called "flashinfer". One `run` at a time: they share a workspace.

    Raises ValueError, with the reason, where FlashInfer cannot be used.
    """

    name = "flashinfer"
    refills: Literal["none", "decode", "any"] = "decode"

    def __init__(self, device: torch.device) -> None:
        found = available()["flashinfer"]
        if not found.usable:
            raise ValueError(f"the attention backend 'flashinfer' cannot be used: {found.reason}")
        self._flashinfer = import_module("flashinfer")
        self._device = device
        self._workspace = torch.zeros(_WORKSPACE, dtype=torch.uint8, device=device)
        # FlashInfer plans for dtypes, of which our protocol tells `run` alone: `plan` goes by the last run,
        # and before there was one leaves it to the first.
        self._dtypes: _Dtypes | None = None
        self._copying: deque[tuple[torch.cuda.Event, Any]] = deque()

    def supports(self, spec: AttentionSpec) -> bool:
        if spec.window is not None and (spec.window < 1 or not spec.causal):
            return False
        return (
            spec.q_heads % spec.kv_heads == 0
            and spec.head_dim == spec.v_dim
            and spec.head_dim in _WIDTHS
            and (spec.softcap is None or spec.softcap > 0)
        )

    def plan(self, layout: PagedLayout, spec: AttentionSpec, into: Plan | None = None) -> Plan:
        """As the protocol says; `into` is refused with a ValueError unless it is of one query a request."""
        size = check_layout(layout)
        if into is None:
            plan = _FlashInferPlan(spec, size, layout, None, self._wrapper(layout, size))
        else:
            require(
                isinstance(into, _FlashInferPlan) and into.spec == spec,
                "into",
                "is of another backend or spec",
            )
            assert isinstance(into, _FlashInferPlan)
            require(
                into.made_for.decode,
                "into",
                "the backend 'flashinfer' refills only plans of one query a request; make a new one",
            )
            check_no_larger(size, into.made_for)
            plan = into
            plan.layout = layout
        self._prepare(plan)
        return plan

    def _wrapper(self, layout: PagedLayout, size: Size) -> Any:
        if not size.requests:
            return None
        if not size.decode:
            return self._flashinfer.BatchPrefillWithPagedKVCacheWrapper(self._workspace, "NHD")
        slots = layout.kv_slots
        return self._flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            self._workspace,
            "NHD",
            use_cuda_graph=True,
            use_tensor_cores=True,
            paged_kv_indptr_buffer=slots.new_empty(size.requests + 1, dtype=torch.int32),
            # A step of fewer requests is filled up with requests of one token.
            paged_kv_indices_buffer=slots.new_empty(size.tokens + size.requests, dtype=torch.int32),
            paged_kv_last_page_len_buffer=slots.new_empty(size.requests, dtype=torch.int32),
        )

    def _prepare(self, plan: _FlashInferPlan) -> None:
        """Has FlashInfer plan the step, for the dtypes of the last run."""
        plan.dtypes = self._dtypes
        if plan.wrapper is None or plan.dtypes is None:
            return
        if plan.copied is not None:
            plan.copied.synchronize()
        spec, layout = plan.spec, plan.layout
        missing = plan.made_for.requests - len(layout.kv_lens) if plan.made_for.decode else 0
        kv_lens = (*layout.kv_lens, *[1] * missing)
        slots = _slots(layout).int()
        if missing:
            slots = F.pad(slots, (0, missing))
        kv_indptr, ones = _indptr(kv_lens), torch.ones(len(kv_lens), dtype=torch.int32)
        options = {
            "num_qo_heads": spec.q_heads,
            "num_kv_heads": spec.kv_heads,
            "page_size": 1,
            "window_left": -1 if spec.window is None else spec.window - 1,
            "logits_soft_cap": spec.softcap,
            "sm_scale": spec.scale,
            "q_data_type": plan.dtypes[0],
            "kv_data_type": plan.dtypes[1],
        }
        if plan.made_for.decode:
            plan.wrapper.plan(kv_indptr, slots, ones, head_dim=spec.head_dim, **options)
        else:
            q_indptr = _indptr(layout.q_lens)
            plan.wrapper.plan(
                q_indptr, kv_indptr, slots, ones, head_dim_qk=spec.head_dim, causal=spec.causal, **options
            )
        if self._device.type == "cuda":
            plan.copied = torch.cuda.Event()
            plan.copied.record()
            # The wrapper's pinned buffer must outlive the copy from it, even if nobody keeps the plan.
            self._copying.append((plan.copied, plan.wrapper))
            while self._copying and self._copying[0][0].query():
                self._copying.popleft()

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
        """As the protocol says; float16 and bfloat16, and both caches have the same strides."""
        assert isinstance(plan, _FlashInferPlan), "a plan belongs to the backend that made it"
        spec, room = plan.spec, plan.made_for.queries
        # A captured plan is run on as many queries as it was made for.
        check_run(spec, room if q.shape[0] == room else sum(plan.layout.q_lens), q, k_cache, v_cache)
        require(
            q.dtype != torch.float32, "q", "the backend 'flashinfer' takes float16 or bfloat16, not float32"
        )
        require(
            k_cache.stride() == v_cache.stride(),
            "v_cache",
            f"the backend 'flashinfer' needs k_cache's strides, {k_cache.stride()}, not {v_cache.stride()}",
        )
        if plan.wrapper is None:
            return q.new_empty(0, spec.q_heads, spec.v_dim)
        if plan.dtypes != (q.dtype, k_cache.dtype):
            require(
                not (q.is_cuda and torch.cuda.is_current_stream_capturing()),
                "q",
                f"the step was planned for {plan.dtypes}, of q and the caches; run it before it is captured",
            )
            self._dtypes = (q.dtype, k_cache.dtype)
            self._prepare(plan)
        queries = q.shape[0]
        if plan.made_for.decode and queries < room:
            q = F.pad(q, (0, 0, 0, 0, 0, room - queries))
        caches = (k_cache.unsqueeze(1), v_cache.unsqueeze(1))
        out: Tensor = plan.wrapper.run(q, caches, k_scale=k_scale, v_scale=v_scale)
        return out[:queries]


def _slots(layout: PagedLayout) -> Tensor:
    """[Σkv]: one request's after another's, as FlashInfer wants them."""
    if layout.kv_starts is None or not layout.kv_lens:
        return layout.kv_slots[: sum(layout.kv_lens)]
    own = zip(layout.kv_starts, layout.kv_lens, strict=True)
    return torch.cat([layout.kv_slots[start : start + length] for start, length in own])


def _indptr(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32)
