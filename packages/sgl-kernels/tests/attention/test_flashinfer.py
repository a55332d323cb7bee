# SPDX-License-Identifier: Apache-2.0
"""What our backend tells FlashInfer, against a stand-in that does in torch what FlashInfer documents."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sgl_kernels import AttentionSpec, Availability, PagedLayout, load_attention
from sgl_kernels.attention import flashinfer
from sgl_kernels.attention.flashinfer import FlashInferAttention

CPU = torch.device("cpu")
SPEC = AttentionSpec(4, 2, 64, 64, 0.2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, window_left: int, cap: float | None, scale: float
) -> Tensor:
    """One request, k and v [tokens, heads, dim]: the formulas of FlashInfer's documentation."""
    group = q.shape[1] // k.shape[1]
    k, v = (x.float().repeat_interleave(group, 1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), k) * scale
    if cap:
        scores = cap * (scores / cap).tanh()
    kv_len, q_len = k.shape[0], q.shape[0]
    ahead = torch.arange(kv_len) - torch.arange(kv_len - q_len, kv_len)[:, None]
    hidden = (ahead > 0) & causal
    if window_left >= 0:
        hidden |= -ahead > window_left
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v).to(q.dtype)


class _Wrapper:
    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert not workspace.any()
        assert kv_layout == "NHD"
        self.plans = 0

    def run(
        self,
        q: Tensor,
        caches: tuple[Tensor, Tensor],
        k_scale: float | None = None,
        v_scale: float | None = None,
    ) -> Tensor:
        p = self.planned
        assert (q.dtype, caches[0].dtype) == (p.q_data_type, p.kv_data_type)
        assert q.shape[1:] == (p.num_qo_heads, p.head_dim)
        assert caches[0].stride() == caches[1].stride()
        assert q.shape[0] == p.q_indptr[-1]
        k, v = (cache.view(-1, 1, p.num_kv_heads, p.head_dim).squeeze(1) for cache in caches)
        out = []
        for r in range(len(p.q_indptr) - 1):
            own = p.indices[p.kv_indptr[r] : p.kv_indptr[r + 1]].long()
            rows = slice(p.q_indptr[r], p.q_indptr[r + 1])
            scale = p.sm_scale * (1.0 if k_scale is None else k_scale)
            cap = p.logits_soft_cap
            out.append(attend(q[rows], k[own], v[own], p.causal, p.window_left, cap, scale))
        return torch.cat(out) * (1.0 if v_scale is None else v_scale)

    def _plan(self, q_indptr: Tensor, kv_indptr: Tensor, indices: Tensor, last: Tensor, options: Any) -> None:
        assert {x.dtype for x in (q_indptr, kv_indptr, indices, last)} == {torch.int32}
        assert options.page_size == 1
        assert last.tolist() == [1] * (len(kv_indptr) - 1)
        assert len(indices) == kv_indptr[-1]
        options.q_indptr, options.kv_indptr, options.indices = q_indptr, kv_indptr, indices.clone()
        self.planned = options
        self.plans += 1


class BatchPrefillWithPagedKVCacheWrapper(_Wrapper):
    def plan(
        self,
        qo_indptr: Tensor,
        kv_indptr: Tensor,
        indices: Tensor,
        last: Tensor,
        *,
        head_dim_qk: int,
        **options: Any,
    ) -> None:
        self._plan(qo_indptr, kv_indptr, indices, last, SimpleNamespace(head_dim=head_dim_qk, **options))


class BatchDecodeWithPagedKVCacheWrapper(_Wrapper):
    def __init__(
        self,
        workspace: Tensor,
        kv_layout: str,
        use_cuda_graph: bool,
        use_tensor_cores: bool,
        paged_kv_indptr_buffer: Tensor,
        paged_kv_indices_buffer: Tensor,
        paged_kv_last_page_len_buffer: Tensor,
    ) -> None:
        super().__init__(workspace, kv_layout)
        assert use_cuda_graph and use_tensor_cores
        self.batch, self.room = len(paged_kv_last_page_len_buffer), len(paged_kv_indices_buffer)
        assert len(paged_kv_indptr_buffer) == self.batch + 1

    def plan(self, indptr: Tensor, indices: Tensor, last: Tensor, **options: Any) -> None:
        assert len(last) == self.batch, "the batch of a wrapper for graphs is fixed"
        assert len(indices) <= self.room
        q_indptr = torch.arange(self.batch + 1, dtype=torch.int32)
        self._plan(q_indptr, indptr, indices, last, SimpleNamespace(causal=False, **options))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FlashInferAttention:
    usable = MappingProxyType({"flashinfer": Availability(True, "a stand-in")})
    monkeypatch.setattr(flashinfer, "available", lambda: usable)
    stand_in = SimpleNamespace(
        BatchPrefillWithPagedKVCacheWrapper=BatchPrefillWithPagedKVCacheWrapper,
        BatchDecodeWithPagedKVCacheWrapper=BatchDecodeWithPagedKVCacheWrapper,
    )
    monkeypatch.setattr(flashinfer, "import_module", lambda _: stand_in)
    monkeypatch.setattr(flashinfer, "_WORKSPACE", 1024)
    return FlashInferAttention(CPU)


def make_layout(lens: list[tuple[int, int]], dtype: torch.dtype = torch.int32) -> PagedLayout:
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    return PagedLayout(
        torch.randperm(90)[: sum(kv_lens)].to(dtype),
        q_lens,
        kv_lens,
    )


def check(backend: FlashInferAttention, plan: Any, layout: PagedLayout, spec: AttentionSpec = SPEC) -> None:
    q = torch.randn(sum(layout.q_lens), 4, 64).bfloat16()
    k, v = torch.randn(2, 90, 2, 64).bfloat16()
    out = backend.run(plan, q, k, v, k_scale=0.5, v_scale=2.0)
    reference = load_attention("reference", [spec], CPU)
    wide = (x.float() for x in (q, k, v))
    expected = reference.run(reference.plan(layout, spec), *wide, k_scale=0.5, v_scale=2.0)
    torch.testing.assert_close(out.float(), expected, rtol=3e-2, atol=3e-2)


@pytest.mark.parametrize("slots", [torch.int32, torch.int64])
@pytest.mark.parametrize("lens", [[(1, 9), (1, 1)], [(5, 5)], [(1, 30), (7, 20), (12, 12)]])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, window=6),
        replace(SPEC, window=1),
        replace(SPEC, softcap=3.0),
        replace(SPEC, causal=False),
    ],
)
def test_as_the_reference(
    backend: FlashInferAttention, spec: AttentionSpec, lens: list[tuple[int, int]], slots: torch.dtype
) -> None:
    assert backend.supports(spec)
    layout = make_layout(lens, slots)
    check(backend, backend.plan(layout, spec), layout, spec)


def test_the_dtypes_of_the_last_run_are_planned_for(backend: FlashInferAttention) -> None:
    layout = make_layout([(5, 9), (1, 3)])
    q, cache = torch.randn(6, 4, 64).half(), torch.randn(90, 2, 64).to(torch.float8_e4m3fn)
    plan: Any = backend.plan(layout, SPEC)
    assert plan.wrapper.plans == 0  # nothing is known of dtypes, and nothing compiled for the wrong ones
    backend.run(plan, q, cache, cache)
    assert plan.wrapper.plans == 1
    later: Any = backend.plan(layout, SPEC)
    backend.run(later, q, cache, cache)
    assert later.wrapper.plans == 1
    backend.run(later, q, cache.half(), cache.half())
    assert later.wrapper.plans == 2


def test_a_plan_of_one_query_a_request_is_refilled(backend: FlashInferAttention) -> None:
    plan = backend.plan(make_layout([(1, 9), (1, 30), (1, 4)]), SPEC)
    for lens in ([(1, 43)], [(1, 2), (1, 2), (1, 39)], [], [(1, 1), (1, 5)]):
        layout = make_layout(lens)
        assert backend.plan(layout, SPEC, plan) is plan
        if lens:
            check(backend, plan, layout)
    with pytest.raises(ValueError, match="into: was made for at most 43 tokens"):
        backend.plan(make_layout([(1, 44)]), SPEC, plan)
    with pytest.raises(ValueError, match="into: is of another backend or spec"):
        backend.plan(make_layout([(1, 4)]), replace(SPEC, scale=1.0), plan)


def test_other_plans_are_not_refilled(backend: FlashInferAttention) -> None:
    layout = make_layout([(5, 9)])
    plan = backend.plan(layout, SPEC)
    with pytest.raises(ValueError, match="into: the backend 'flashinfer' refills only plans of one query"):
        backend.plan(layout, SPEC, plan)


def test_an_empty_step(backend: FlashInferAttention) -> None:
    plan = backend.plan(make_layout([]), SPEC)
    cache = torch.zeros(3, 2, 64).half()
    assert backend.run(plan, torch.zeros(0, 4, 64).half(), cache, cache).shape == (0, 4, 64)


def test_tensors_that_it_has_no_kernels_for(backend: FlashInferAttention) -> None:
    plan = backend.plan(make_layout([(5, 9)]), SPEC)
    q, cache = torch.zeros(5, 4, 64), torch.zeros(90, 2, 64)
    with pytest.raises(ValueError, match="q: the backend 'flashinfer' takes float16 or bfloat16"):
        backend.run(plan, q, cache, cache)
    with pytest.raises(ValueError, match="v_cache: the backend 'flashinfer' needs k_cache's strides"):
        backend.run(plan, q.half(), cache.half(), torch.zeros(2, 90, 64).half().transpose(0, 1))


@pytest.mark.parametrize(
    "spec",
    [
        AttentionSpec(5, 2, 64, 64, 0.2),
        AttentionSpec(4, 2, 96, 96, 0.2),
        AttentionSpec(4, 1, 576, 512, 0.2),
        replace(SPEC, window=0),
        replace(SPEC, window=4, causal=False),
    ],
)
def test_what_is_not_supported(backend: FlashInferAttention, spec: AttentionSpec) -> None:
    assert not backend.supports(spec)


def test_where_it_cannot_be_used_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = MappingProxyType({"flashinfer": Availability(False, "finds no nvcc on the PATH")})
    monkeypatch.setattr(flashinfer, "available", lambda: missing)
    with pytest.raises(ValueError, match="'flashinfer' cannot be used: finds no nvcc on the PATH"):
        FlashInferAttention(CPU)
