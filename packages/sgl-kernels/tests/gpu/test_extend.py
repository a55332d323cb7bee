# SPDX-License-Identifier: Apache-2.0
"""Extend on a GPU against float64 and the reference on the CPU, and in a CUDA graph."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sgl_kernels import AttentionBackend, AttentionSpec, PagedLayout, available, load_attention
from sgl_kernels._triton import extend, extend_plan
from sgl_kernels.attention.arguments import kv_starts, starts
from sgl_kernels.attention.flashinfer import FlashInferAttention

pytestmark = pytest.mark.gpu

Lens = list[tuple[int, int]]  # queries and tokens of each request
ERROR = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 5e-3}
SCALE = 128**-0.5
LLAMA = AttentionSpec(32, 8, 128, 128, SCALE)
MIXED: Lens = [(1, 1), (128, 128), (129, 400), (300, 301), (5, 1000), (1, 777), (700, 2048), (64, 64)]
SPECS = {
    "llama": LLAMA,
    "bidirectional": AttentionSpec(32, 8, 128, 128, SCALE, causal=False),
    "window": AttentionSpec(32, 8, 128, 128, SCALE, window=100),
    "softcap": AttentionSpec(32, 8, 128, 128, SCALE, softcap=30.0),
    "one head each": AttentionSpec(8, 8, 64, 64, 0.1),
    "group of 7": AttentionSpec(28, 4, 128, 128, SCALE),
    "80": AttentionSpec(8, 2, 80, 80, 0.1),
    "96": AttentionSpec(8, 2, 96, 96, 0.1),
    "192 and 128": AttentionSpec(16, 16, 192, 128, 0.07),
    "256": AttentionSpec(16, 8, 256, 256, 0.06),
    "gemma": AttentionSpec(16, 8, 256, 256, 0.06, window=300, softcap=50.0),
    "latent": AttentionSpec(16, 1, 576, 512, 0.05),
}


def make_layout(lens: Lens, slots: int) -> PagedLayout:
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    return PagedLayout(torch.randperm(slots, device="cuda")[: sum(kv_lens)].int(), q_lens, kv_lens)


def on_cpu(layout: PagedLayout) -> PagedLayout:
    return replace(layout, kv_slots=layout.kv_slots.cpu())


def exact(layout: PagedLayout, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out, begin, end = [], 0, 0
    for q_len, kv_len in zip(layout.q_lens, layout.kv_lens, strict=True):
        slots = layout.kv_slots[end : end + kv_len].long()
        group = spec.q_heads // spec.kv_heads
        keys, values = (x[slots].double().repeat_interleave(group, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[begin : begin + q_len].double(), keys) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * (scores / spec.softcap).tanh()
        position = torch.arange(kv_len - q_len, kv_len, device=q.device)[:, None]
        token = torch.arange(kv_len, device=q.device)
        hidden = torch.zeros(q_len, kv_len, dtype=torch.bool, device=q.device)
        if spec.causal:
            hidden |= token > position
        if spec.window is not None:
            hidden |= token <= position - spec.window
        out.append(
            torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), values)
        )
        begin, end = begin + q_len, end + kv_len
    return torch.cat(out)


def caches(layout: PagedLayout, spec: AttentionSpec, slots: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """NaN in what belongs to nobody, which must not be read."""
    owned = torch.zeros(slots, 1, 1, dtype=torch.bool, device="cuda")
    owned[layout.kv_slots.long()] = True
    k, v = (
        torch.randn(slots, spec.kv_heads, d, device="cuda").where(owned, float("nan")).to(dtype)
        for d in (spec.head_dim, spec.v_dim)
    )
    return (k, k[..., : spec.v_dim]) if spec.head_dim == 576 else (k, v)


def close(out: Tensor, expected: Tensor, error: float) -> bool:
    return bool((out.double() - expected.double()).norm() <= error * expected.double().norm())


def triton(spec: AttentionSpec) -> AttentionBackend:
    return load_attention("triton", [spec], torch.device("cuda"))


@pytest.mark.parametrize("way", ["paged", "gathered", "hopper"])
@pytest.mark.parametrize("name", ["llama", "gemma"])
def test_every_way(name: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots at random, in runs, and some of both; what is written, and what is left alone."""
    if way == "hopper" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not a Hopper")
    spec = SPECS[name]
    monkeypatch.setattr(extend_plan, "way_of", lambda *_: way)
    for order in ("random", "runs", "both"):
        layout = make_layout(MIXED, 6000)
        tokens = len(layout.kv_slots)
        run = {"random": 0, "runs": tokens, "both": 1500}[order]
        free = torch.ones(6000, dtype=torch.bool, device="cuda")
        free[7 : 7 + run] = False
        others = free.nonzero().flatten()[torch.randperm(6000 - run, device="cuda")]
        layout.kv_slots[:run] = torch.arange(7, 7 + run, device="cuda")
        layout.kv_slots[run:] = others[: tokens - run]
        q = torch.randn(sum(layout.q_lens), spec.q_heads, spec.head_dim, device="cuda").bfloat16()
        k, v = caches(layout, spec, 6000, torch.bfloat16)
        out = torch.full_like(q, float("nan"))
        first = starts(layout.q_lens).tolist(), kv_starts(layout).tolist()
        chosen = [0, 2, 3, 4, 6, 7]
        extend.run_extend(extend.plan_extend(layout, spec, chosen, *first), q, k, v, out, 1.0, 1.0)
        expected = exact(layout, spec, q, k, v)
        for r in range(len(MIXED)):
            rows = slice(first[0][r], first[0][r] + layout.q_lens[r])
            if r in chosen:
                assert close(out[rows], expected[rows], ERROR[torch.bfloat16])
            else:
                assert out[rows].isnan().all()


@pytest.mark.parametrize("name", ["llama", "softcap", "latent"])
def test_few_queries_after_a_long_prefix(name: str) -> None:
    """They are decoded, query by query, with the prefix read once; beside single queries."""
    spec, slots = SPECS[name], 20000
    few = 3 if name == "latent" else 16
    layout = make_layout([(few, 9000 + few), (1, 3000), (2, 1200)], slots)
    k, v = caches(layout, spec, slots, torch.bfloat16)
    q = torch.randn(sum(layout.q_lens), spec.q_heads, spec.head_dim, device="cuda").bfloat16()
    backend = triton(spec)
    plan = backend.plan(layout, spec)
    assert plan.extend is None  # type: ignore[attr-defined]
    assert close(backend.run(plan, q, k, v), exact(layout, spec, q, k, v), ERROR[torch.bfloat16])


# A kernel takes seconds to compile: every kind of heads once, and float16 where it has a path of its own.
@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, torch.bfloat16) for name in SPECS), ("llama", torch.float16)]
)
def test_against_float64(name: str, dtype: torch.dtype) -> None:
    spec = SPECS[name]
    backend = triton(spec)
    for lens in (MIXED, [(3, 500), (2, 9)]):
        slots = sum(kv for _, kv in lens) + 30
        layout = make_layout(lens, slots)
        q = torch.randn(sum(layout.q_lens), spec.q_heads + 2, spec.head_dim, device="cuda").to(dtype)
        q = q[:, : spec.q_heads]  # strided, as layers pass it
        k, v = caches(layout, spec, slots, dtype)
        out = backend.run(backend.plan(layout, spec), q, k, v)
        assert out.dtype == dtype
        assert close(out, exact(layout, spec, q, k, v), ERROR[dtype])


@pytest.mark.parametrize("name", ["llama", "latent"])
def test_float32(name: str) -> None:
    spec = SPECS[name]
    backend = triton(spec)
    layout = make_layout([(70, 300), (200, 200)], 600)
    q = torch.randn(270, spec.q_heads, spec.head_dim, device="cuda")
    k, v = caches(layout, spec, 600, torch.float32)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    assert close(out, exact(layout, spec, q, k, v), ERROR[torch.float32])


@pytest.mark.parametrize("stored", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("lens", [[(600, 600), (300, 1000)], [(5, 500), (3, 3)]])
def test_float8(lens: Lens, stored: torch.dtype) -> None:
    backend = triton(LLAMA)
    layout = make_layout(lens, 1700)
    q = torch.randn(sum(layout.q_lens), 32, 128, device="cuda").bfloat16()
    pairs = torch.randn(1700, 2, 8, 128, device="cuda").to(stored)
    k, v = pairs[:, 0], pairs[:, 1]
    out = backend.run(backend.plan(layout, LLAMA), q, k, v, k_scale=0.5, v_scale=3.0)
    expected = exact(layout, LLAMA, q, k.double() * 0.5, v.double() * 3.0)
    assert close(out, expected, 1e-2)


def test_as_on_the_cpu() -> None:
    layout = make_layout(MIXED, 5000)
    q = torch.randn(sum(layout.q_lens), 32, 128, device="cuda").bfloat16()
    k, v = torch.randn(2, 5000, 8, 128, device="cuda").bfloat16()
    outs = []
    for device, name in (("cuda", "triton"), ("cpu", "reference")):
        backend = load_attention(name, [LLAMA], torch.device(device))
        plan = backend.plan(layout if device == "cuda" else on_cpu(layout), LLAMA)
        outs.append(backend.run(plan, *(x.to(device) for x in (q, k, v))).cpu())
    assert close(outs[0], outs[1], 2 * ERROR[torch.bfloat16])


def test_odd_strides() -> None:
    layout = make_layout([(300, 300), (90, 400)], 800)
    backend = triton(LLAMA)
    q = torch.randn(390, 32, 131, device="cuda").bfloat16()[..., 1:129]
    k, v = (torch.randn(8, 800, 129, device="cuda").bfloat16()[..., 1:].transpose(0, 1) for _ in range(2))
    out = backend.run(backend.plan(layout, LLAMA), q, k, v)
    assert close(out, exact(layout, LLAMA, q, k, v), ERROR[torch.bfloat16])


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float8_e5m2])
@pytest.mark.parametrize("name", ["llama", "softcap"])
def test_slots_beyond_two_to_the_31_elements(name: str, stored: torch.dtype) -> None:
    spec, slots = SPECS[name], (1 << 21) + 400
    layout = make_layout([(300, 300)], 400)
    layout = replace(layout, kv_slots=layout.kv_slots + (1 << 21))
    cache = torch.empty(slots, 8, 128, device="cuda", dtype=stored)
    cache[1 << 21 :] = torch.randn(400, 8, 128, device="cuda").to(stored)
    q = torch.randn(300, 32, 128, device="cuda").bfloat16()
    backend = triton(spec)
    out = backend.run(backend.plan(layout, spec), q, cache, cache)
    assert close(out, exact(layout, spec, q, cache, cache), 1e-2)


@pytest.mark.parametrize("name", ["llama", "softcap"])
def test_in_a_graph(name: str) -> None:
    spec = SPECS[name]
    backend = triton(spec)
    room = make_layout([(400, 1000), (200, 200), (1, 300)], 1600)
    q = torch.randn(601, 32, 128, device="cuda").bfloat16()
    k, v = torch.randn(2, 1600, 8, 128, device="cuda").bfloat16()
    plan = backend.plan(room, spec)
    backend.run(plan, q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = backend.run(plan, q, k, v)
    for lens in ([(1, 1), (70, 900)], [(600, 1400)], [(400, 1000), (200, 200), (1, 300)], [(2, 2)]):
        layout = make_layout(lens, 1600)
        room.kv_slots[: len(layout.kv_slots)] = layout.kv_slots
        layout = replace(layout, kv_slots=room.kv_slots)
        q.normal_()
        out.fill_(float("nan"))
        backend.plan(layout, spec, plan)
        graph.replay()
        queries = sum(layout.q_lens)
        assert close(out[:queries], exact(layout, spec, q[:queries], k, v), ERROR[torch.bfloat16])
        assert out[queries:].isnan().all()


@pytest.mark.parametrize("lens", [MIXED, [(1, 40), (1, 3000), (1, 1)]])
def test_flashinfer(lens: Lens) -> None:
    if not available()["flashinfer"].usable:
        pytest.skip(available()["flashinfer"].reason)
    backend = FlashInferAttention(torch.device("cuda"))
    slots = sum(kv for _, kv in lens) + 30
    layout = make_layout(lens, slots)
    q = torch.randn(sum(layout.q_lens), 32, 128, device="cuda").bfloat16()
    k, v = caches(layout, LLAMA, slots, torch.bfloat16)
    out = backend.run(backend.plan(layout, LLAMA), q, k, v, k_scale=0.5, v_scale=3.0)
    assert close(out, exact(layout, LLAMA, q, k.double() * 0.5, v.double() * 3.0), 1e-2)
    ours = triton(LLAMA)
    assert close(ours.run(ours.plan(layout, LLAMA), q, k, v, k_scale=0.5, v_scale=3.0), out, 1e-2)


def test_a_graph_of_flashinfer_is_refilled() -> None:
    if not available()["flashinfer"].usable:
        pytest.skip(available()["flashinfer"].reason)
    backend = FlashInferAttention(torch.device("cuda"))
    q = torch.randn(4, 32, 128, device="cuda").bfloat16()
    k, v = torch.randn(2, 900, 8, 128, device="cuda").bfloat16()
    plan = backend.plan(make_layout([(1, 200)] * 4, 900), LLAMA)
    backend.run(plan, q, k, v)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = backend.run(plan, q, k, v)
    for lens in ([(1, 200)] * 4, [(1, 797), (1, 1)], [(1, 1), (1, 500), (1, 30)]):
        layout = make_layout(lens, 900)
        q.normal_()
        backend.plan(layout, LLAMA, plan)
        graph.replay()
        expected = exact(layout, LLAMA, q[: len(lens)], k, v)
        assert close(out[: len(lens)], expected, ERROR[torch.bfloat16])
