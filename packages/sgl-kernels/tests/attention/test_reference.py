# SPDX-License-Identifier: Apache-2.0
"""The reference backend against loops over numpy float64, on layouts of every kind."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, load_attention
from sgl_kernels.attention import reference

CPU = torch.device("cpu")


def make_layout(lens: list[tuple[int, int]], slots: Tensor) -> PagedLayout:
    """(q_len, kv_len) of each request, whose tokens lie in `slots`, one request after another."""
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    return PagedLayout(
        q_indptr=torch.tensor(list(accumulate(q_lens, initial=0)), dtype=torch.int32),
        kv_indptr=torch.tensor(list(accumulate(kv_lens, initial=0)), dtype=torch.int32),
        kv_slots=slots[: sum(kv_lens)],
        q_lens=q_lens,
        kv_lens=kv_lens,
    )


def expected(layout: PagedLayout, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> NDArray[Any]:
    """Query by query, head by head."""
    queries, keys, values = (x.to(torch.float64).numpy() for x in (q, k, v))
    slots = layout.kv_slots.numpy()
    out = np.zeros((len(q), spec.q_heads, spec.v_dim))
    token = begin = 0
    for q_len, kv_len in zip(layout.q_lens, layout.kv_lens, strict=True):
        own = slots[begin : begin + kv_len]
        for position in range(kv_len - q_len, kv_len):
            first = 0 if spec.window is None else max(0, position + 1 - spec.window)
            seen = own[first : position + 1]
            for head in range(spec.q_heads):
                kv_head = head // (spec.q_heads // spec.kv_heads)
                scores = keys[seen, kv_head] @ queries[token, head] * spec.scale
                if spec.softcap is not None:
                    scores = spec.softcap * np.tanh(scores / spec.softcap)
                weights = np.exp(scores - scores.max())
                out[token, head] = weights @ values[seen, kv_head] / weights.sum()
            token += 1
        begin += kv_len
    return out


def check(spec: AttentionSpec, lens: list[tuple[int, int]], *, shuffled: bool = True, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    capacity = sum(kv for _, kv in lens) + 5
    slots = torch.randperm(capacity, generator=generator) if shuffled else torch.arange(2, capacity)
    layout = make_layout(lens, slots.int())
    q = torch.randn(sum(layout.q_lens), spec.q_heads, spec.head_dim, generator=generator)
    k = torch.randn(capacity, spec.kv_heads, spec.head_dim, generator=generator)
    v = torch.randn(capacity, spec.kv_heads, spec.v_dim, generator=generator)
    unused = np.setdiff1d(np.arange(capacity), layout.kv_slots.numpy())
    k[unused], v[unused] = float("nan"), float("nan")  # what belongs to nobody must not be read
    backend = load_attention("reference", [spec], CPU)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    assert out.shape == (len(q), spec.q_heads, spec.v_dim)
    np.testing.assert_allclose(out.numpy(), expected(layout, spec, q, k, v), rtol=2e-5, atol=2e-5)


SPECS = st.builds(
    lambda kv, group, dims, window, softcap: AttentionSpec(
        kv * group, kv, dims[0], dims[1], dims[0] ** -0.5, window, softcap
    ),
    kv=st.integers(1, 3),
    group=st.integers(1, 4),
    dims=st.sampled_from([(4, 4), (8, 8), (12, 8)]),
    window=st.none() | st.integers(1, 40),
    softcap=st.none() | st.floats(0.5, 30),
)
# (cached prefix, queries): nothing cached, one query, all but one cached, anything.
REQUESTS = st.one_of(
    st.tuples(st.just(0), st.integers(1, 30)),
    st.tuples(st.integers(0, 60), st.just(1)),
    st.tuples(st.integers(0, 40), st.integers(1, 12)),
).map(lambda request: (request[1], request[0] + request[1]))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(SPECS, st.lists(REQUESTS, min_size=1, max_size=6), st.booleans(), st.integers(0, 99))
def test_any_layout(spec: AttentionSpec, lens: list[tuple[int, int]], shuffled: bool, seed: int) -> None:
    check(spec, lens, shuffled=shuffled, seed=seed)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(SPECS, st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 99))
def test_any_decode_in_several_buckets(spec: AttentionSpec, lens: list[int], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "_CALL_COST", 300)
        patch.setattr(reference, "_BUCKET_LIMIT", 2000)
        patch.setattr(reference, "_FUSED_LIMIT", 0 if seed % 2 else 500)
        check(spec, [(1, kv_len) for kv_len in lens], seed=seed)


WINDOWS = [None, 1, 2, 100, 128, 129, 1000]


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lens", [(300, 300), (128, 128), (129, 400), (2, 300), (256, 700)])
def test_long_prompts_in_blocks(lens: tuple[int, int], window: int | None) -> None:
    check(AttentionSpec(2, 1, 4, 4, 0.5, window=window), [lens])


def test_blocks_shrink_when_there_are_many_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_SCORES_LIMIT", 2 * 50 * 7)
    sizes = []
    scores = reference._scores

    def spy(*arguments: Any) -> Tensor:
        result = scores(*arguments)
        sizes.append(result.numel())
        return result

    monkeypatch.setattr(reference, "_scores", spy)
    check(AttentionSpec(2, 1, 4, 4, 0.5), [(30, 50)])
    check(AttentionSpec(2, 1, 4, 4, 0.5, window=9), [(30, 500)])
    assert len(sizes) > 4
    assert max(sizes) <= 2 * 50 * 7


@pytest.mark.parametrize("softcap", [None, 20.0])
def test_decode_of_unequal_lengths(softcap: float | None) -> None:
    spec = AttentionSpec(6, 2, 16, 16, 0.25, softcap=softcap)
    check(spec, [(1, 37 * (i * 7 % 11 + 1)) for i in range(11)])


def test_consecutive_slots_are_read_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = AttentionSpec(6, 2, 16, 16, 0.25)
    check(spec, [(1, 50)], shuffled=False)
    monkeypatch.setattr(reference, "_gather", None)  # would be called if there were a gather
    check(spec, [(1, 50)], shuffled=False)
    with pytest.raises(TypeError):
        check(spec, [(1, 50)], shuffled=True)


def test_slots_whose_ends_look_consecutive_are_gathered() -> None:
    spec = AttentionSpec(2, 1, 8, 8, 0.3)
    layout = make_layout([(1, 4)], torch.tensor([3, 7, 8, 6]))
    q, k, v = torch.randn(1, 2, 8), torch.randn(9, 1, 8), torch.randn(9, 1, 8)
    backend = load_attention(None, [spec], CPU)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    np.testing.assert_allclose(out, expected(layout, spec, q, k, v), atol=1e-5)


@pytest.mark.parametrize(
    "lens", [[(1, 90)], [(1, 200), (1, 3)], [(1, 700), (1, 650)], [(40, 90)], [(1, 70), (9, 30), (1, 31)]]
)
def test_bfloat16_is_near_float64(lens: list[tuple[int, int]]) -> None:
    spec = AttentionSpec(9, 3, 64, 64, 0.125)
    layout = make_layout(lens, torch.randperm(1400, generator=torch.Generator().manual_seed(0)))
    qkv = torch.randn(sum(layout.q_lens), 15, 64).bfloat16()
    q = qkv[:, :9]  # a strided view, as layers pass it
    k, v = torch.randn(2, 1400, 3, 64).bfloat16()
    backend = load_attention(None, [spec], CPU)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    assert out.dtype == torch.bfloat16
    assert np.abs(out.double().numpy() - expected(layout, spec, q, k, v)).max() < 0.03


def test_a_plan_serves_every_layer_and_dtype() -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3, softcap=30.0)
    layout = make_layout([(1, 5), (1, 9), (3, 7)], torch.arange(30))
    backend = load_attention(None, [spec], CPU)
    with torch.inference_mode():
        plan = backend.plan(layout, spec)
        q = torch.randn(5, 4, 8)
        layers = [(torch.randn(30, 2, 8), torch.randn(30, 2, 8)) for _ in range(2)]
        for k, v in layers:
            np.testing.assert_allclose(backend.run(plan, q, k, v), expected(layout, spec, q, k, v), atol=1e-5)
        for dtype in (torch.bfloat16, torch.float32):
            backend.run(plan, q.to(dtype), *(cache.to(dtype) for cache in layers[0]))
    backend.run(plan, q.clone(), *layers[0])  # outside of inference mode


def test_an_empty_batch() -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    backend = load_attention(None, [spec], CPU)
    plan = backend.plan(make_layout([], torch.arange(0)), spec)
    assert backend.run(
        plan, torch.empty(0, 4, 8), torch.randn(2, 5, 2, 8)[0], torch.randn(5, 2, 8)
    ).shape == (0, 4, 8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("lens", [[(1, 90)], [(1, 200), (1, 3)], [(300, 900)], [(1, 70), (9, 30), (1, 31)]])
def test_cuda_equals_cpu(lens: list[tuple[int, int]]) -> None:
    spec = AttentionSpec(6, 2, 16, 16, 0.25, window=100)
    layout = make_layout(lens, torch.randperm(1000, generator=torch.Generator().manual_seed(0)).int())
    q = torch.randn(sum(layout.q_lens), 6, 16)
    k, v = torch.randn(2, 1000, 2, 16)
    outs = []
    for device in ("cpu", "cuda"):
        moved = PagedLayout(
            layout.q_indptr.to(device),
            layout.kv_indptr.to(device),
            layout.kv_slots.to(device),
            layout.q_lens,
            layout.kv_lens,
        )
        backend = load_attention(None, [spec], torch.device(device))
        outs.append(backend.run(backend.plan(moved, spec), q.to(device), k.to(device), v.to(device)).cpu())
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-4)
