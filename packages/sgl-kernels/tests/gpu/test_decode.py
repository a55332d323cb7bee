# SPDX-License-Identifier: Apache-2.0
"""Decode on a GPU against float64, and in CUDA graphs whose plans are refilled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix, load_attention, merge_states

pytestmark = pytest.mark.gpu

LLAMA = AttentionSpec(32, 8, 128, 128, 128**-0.5)
ERROR = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 6e-3}
SHORT = [1, 700, 129, 64, 3000, 5, 33, 32, 31, 2048]


def make_layout(lengths: Sequence[int], shared: Sequence[SharedPrefix] = (), spare: int = 7) -> PagedLayout:
    starts = list(accumulate(lengths, initial=0))
    slots = torch.randperm(starts[-1] + spare, device="cuda").int()[: starts[-1]].clone()
    for first, rows, tokens in shared:
        for r in range(first, first + rows):
            slots[starts[r] : starts[r] + tokens] = slots[starts[first] : starts[first] + tokens]
    return PagedLayout(slots, (1,) * len(lengths), tuple(lengths), shared=tuple(shared))


def tensors(
    layout: PagedLayout, spec: AttentionSpec, dtype: torch.dtype, kind: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Strided queries; NaN in slots that belong to nobody."""
    slots = sum(layout.kv_lens) + 7
    q = torch.randn(len(layout.q_lens), spec.q_heads + 2, spec.head_dim, device="cuda").to(dtype)[:, 2:]
    owned = torch.zeros(slots, dtype=torch.bool, device="cuda")
    owned[layout.kv_slots.long()] = True
    caches = []
    for dim in (spec.head_dim, spec.v_dim):
        x = torch.randn(slots, spec.kv_heads, dim, device="cuda")
        caches.append(x.masked_fill_(~owned[:, None, None], float("nan")).to(kind or dtype))
    return q, caches[0], caches[1]


def exact(
    layout: PagedLayout,
    spec: AttentionSpec,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ks: float = 1.0,
    vs: float = 1.0,
) -> Tensor:
    rows, begin = [], 0
    for r, length in enumerate(layout.kv_lens):
        own = layout.kv_slots[begin + max(0, length - (spec.window or length)) : begin + length].long()
        begin += length
        scores = torch.einsum(
            "hgd,nhd->hgn",
            q[r].double().view(spec.kv_heads, -1, spec.head_dim),
            k[own].double() * (ks * spec.scale),
        )
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        rows.append(torch.einsum("hgn,nhd->hgd", scores.softmax(-1), v[own].double() * vs).flatten(0, 1))
    return torch.stack(rows)


def close(out: Tensor, expected: Tensor, error: float) -> None:
    for ours, theirs in zip(out.double(), expected, strict=True):  # NaN never passes
        assert (ours - theirs).norm() <= error * theirs.norm()


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        (LLAMA, torch.bfloat16),
        (AttentionSpec(8, 2, 64, 64, 0.125), torch.float32),
        (AttentionSpec(8, 4, 256, 256, 1 / 16, window=1024, softcap=50.0), torch.bfloat16),
        (AttentionSpec(12, 2, 96, 80, 0.1), torch.float16),
        (AttentionSpec(71, 1, 64, 64, 0.125), torch.bfloat16),
    ],
    ids=str,
)
def test_any_head(spec: AttentionSpec, dtype: torch.dtype) -> None:
    layout = make_layout(SHORT)
    q, k, v = tensors(layout, spec, dtype)
    backend = load_attention("triton", [spec], q.device)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    assert out.dtype == dtype
    close(out, exact(layout, spec, q, k, v), ERROR[dtype])


@pytest.mark.parametrize("heads", [16, 128])
def test_latent_attention(heads: int) -> None:
    spec = AttentionSpec(heads, 1, 576, 512, 0.05)
    layout = make_layout(SHORT)
    q, k, v = tensors(layout, spec, torch.bfloat16)
    backend = load_attention("triton", [spec], q.device)
    for values in (k[..., :512], v) if heads > 16 else (k[..., :512],):
        out = backend.run(backend.plan(layout, spec), q, k, values)
        close(out, exact(layout, spec, q, k, values), 6e-3)


def test_narrow_caches() -> None:
    layout = make_layout(SHORT)
    q, k, v = tensors(layout, LLAMA, torch.bfloat16, torch.float8_e4m3fn)
    backend = load_attention("triton", [LLAMA], q.device)
    out = backend.run(backend.plan(layout, LLAMA), q, k, v, k_scale=0.5, v_scale=3.0)
    close(out, exact(layout, LLAMA, q, k, v, 0.5, 3.0), 6e-3)


@pytest.mark.parametrize("lengths", [[32768], [128] * 300, [1] * 1025, [5000, 1] * 40])
def test_any_division(lengths: list[int]) -> None:
    layout = make_layout(lengths)
    q, k, v = tensors(layout, LLAMA, torch.bfloat16)
    backend = load_attention(None, [LLAMA], q.device)
    assert backend.name == "triton"
    close(backend.run(backend.plan(layout, LLAMA), q, k, v), exact(layout, LLAMA, q, k, v), 6e-3)


def test_shared_prefixes() -> None:
    shared = [SharedPrefix(2, 70, 600), SharedPrefix(72, 3, 1000)]
    layout = make_layout([40, 900, *(601 + i for i in range(70)), 1001, 1100, 1200, 7], shared)
    q, k, v = tensors(layout, LLAMA, torch.bfloat16)
    backend = load_attention("triton", [LLAMA], q.device)
    close(backend.run(backend.plan(layout, LLAMA), q, k, v), exact(layout, LLAMA, q, k, v), 6e-3)


@pytest.mark.parametrize("shared", [False, True])
def test_a_graph_computes_what_its_plan_is_refilled_with(shared: bool) -> None:
    """Several layers in one graph: each begins while the one before ends."""
    device = torch.device("cuda")
    backend = load_attention("triton", [LLAMA], device)
    groups = [SharedPrefix(0, 40, 300)] if shared else []
    largest = make_layout([500] * 40 + [12000], groups, spare=0)
    slots = largest.kv_slots.clone()
    captured = replace(largest, kv_slots=slots)
    total = len(slots)
    layers = [[torch.randn(total, 8, 128, device=device).bfloat16() for _ in range(2)] for _ in range(4)]
    q = torch.randn(41, 32, 128, device=device).bfloat16()
    plan = backend.plan(captured, LLAMA)

    def step() -> list[Tensor]:
        return [backend.run(plan, q, k, v) for k, v in layers]

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outs = step()
    for lengths, now in (
        ([500] * 40 + [12000], groups),
        ([1] * 41, []),
        ([30000] + [40] * 40, []),
        ([320 + i for i in range(20)] + [9] * 21, [SharedPrefix(0, 20, 310)] if shared else []),
    ):
        layout = make_layout(lengths, now, spare=0)
        slots[: len(layout.kv_slots)] = layout.kv_slots
        assert backend.plan(replace(layout, kv_slots=slots), LLAMA, into=plan) is plan
        for _ in range(3):
            q.normal_()
            for out in outs:
                out.fill_(float("nan"))
            graph.replay()
            for out, (k, v) in zip(outs, layers, strict=True):
                close(out, exact(layout, LLAMA, q, k, v), 6e-3)


def test_the_same_bits_again() -> None:
    layout = make_layout([3000, 1, 40, 20000])
    q, k, v = tensors(layout, LLAMA, torch.bfloat16)
    backend = load_attention("triton", [LLAMA], q.device)
    plan = backend.plan(layout, LLAMA)
    first = backend.run(plan, q, k, v)
    for _ in range(50):
        assert torch.equal(backend.run(plan, q, k, v), first)


def test_merged_states() -> None:
    out, lse = (
        torch.randn(33, 70, 8, 128, device="cuda").bfloat16(),
        9 * torch.randn(33, 70, 8, device="cuda"),
    )
    lse[3:5, :, 2] = float("-inf")
    out[3:5, :, 2] = float("nan")
    for ours, theirs in zip(merge_states(out, lse), merge_states(out.cpu(), lse.cpu()), strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1.6e-2, atol=1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch.compile advises on precision
@pytest.mark.parametrize("several", [False, True])
def test_a_compiled_function_may_attend(several: bool) -> None:
    layout = make_layout(SHORT)
    q, k, v = tensors(layout, LLAMA, torch.bfloat16)
    if several:  # the same tokens, of which the last requests compute more than one
        q_lens = (1,) * (len(SHORT) - 2) + (17, 100)
        layout = replace(layout, q_lens=q_lens)
        q = torch.randn(sum(q_lens), *q.shape[1:], device="cuda", dtype=q.dtype)
    backend = load_attention("triton", [LLAMA], q.device)
    plan = backend.plan(layout, LLAMA)

    def twice(q: Tensor) -> Tensor:
        return 2 * backend.run(plan, q + 1, k, v) - 1

    torch.testing.assert_close(torch.compile(twice)(q), twice(q), atol=1e-2, rtol=1e-2)
