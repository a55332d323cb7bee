# SPDX-License-Identifier: Apache-2.0
"""The reference backend against loops over numpy float64, on layouts of every kind."""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix, load_attention
from sgl_kernels.attention import reference

CPU = torch.device("cpu")


def make_layout(lens: list[tuple[int, int]], slots: Tensor) -> PagedLayout:
    """(q_len, kv_len) of each request, whose tokens lie in `slots`, one request after another."""
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    return PagedLayout(
        kv_slots=slots[: sum(kv_lens)],
        q_lens=q_lens,
        kv_lens=kv_lens,
    )


def spread(layout: PagedLayout) -> PagedLayout:
    """The same requests, whose tokens lie apart and in another order, as in a page table."""
    starts = list(accumulate(layout.kv_lens, initial=0))
    order = list(range(len(layout.kv_lens)))[::-1]
    rows, first, at = [], [0] * len(order), 0
    for r in order:
        rows += [layout.kv_slots.new_full((3,), 1 << 20), layout.kv_slots[starts[r] : starts[r + 1]]]
        first[r] = at + 3
        at += 3 + layout.kv_lens[r]
    return replace(layout, kv_slots=torch.cat(rows), kv_starts=tuple(first))


def expected(layout: PagedLayout, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> NDArray[Any]:
    """Query by query, head by head; float8 tensors without scales."""
    queries, keys, values = (x.to(torch.float64).numpy() for x in (q, k, v))
    slots = layout.kv_slots.numpy()
    out = np.zeros((len(q), spec.q_heads, spec.v_dim))
    token = begin = 0
    for q_len, kv_len in zip(layout.q_lens, layout.kv_lens, strict=True):
        own = slots[begin : begin + kv_len]
        for position in range(kv_len - q_len, kv_len):
            first = 0 if spec.window is None else max(0, position + 1 - spec.window)
            seen = own[first : position + 1] if spec.causal else own
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


def strided(x: Tensor, how: str) -> Tensor:
    """The same elements [S, heads, dim] elsewhere in memory."""
    slots, heads, dim = x.shape
    match how:
        case "as it is":
            return x
        case "half of a pair":  # [S, 2, heads, dim]
            out = x.new_empty(slots, 2, heads, dim)[:, 1]
        case "heads first":
            out = x.new_empty(heads, slots, dim).transpose(0, 1)
        case "padded rows":
            out = x.new_empty(slots, heads, dim + 4)[..., :dim]
    return out.copy_(x)


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


@settings(max_examples=20, deadline=None, derandomize=True)
@given(SPECS, st.lists(REQUESTS, min_size=1, max_size=4))
def test_without_causality_all_is_seen(spec: AttentionSpec, lens: list[tuple[int, int]]) -> None:
    check(replace(spec, window=None, causal=False), lens)


@pytest.mark.parametrize("how", ["as it is", "half of a pair", "heads first", "padded rows"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("lens", [[(1, 5)], [(1, 40), (1, 3)], [(1, 7), (9, 30), (1, 31)], [(5, 5)]])
def test_any_strides_and_float8_with_scales(
    lens: list[tuple[int, int]], dtype: torch.dtype, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = AttentionSpec(6, 2, 16, 8, 0.25, softcap=None if len(lens) > 1 else 20.0)
    for limit in (0, 1 << 17):
        monkeypatch.setattr(reference, "_FUSED_LIMIT", limit)
        layout = make_layout(lens, torch.randperm(90).int())
        q = torch.randn(sum(layout.q_lens), 6, 16)
        k, v = (strided(torch.randn(90, 2, dim).to(dtype), how) for dim in (16, 8))
        backend = load_attention("reference", [spec], CPU)
        out = backend.run(backend.plan(layout, spec), q, k, v, k_scale=0.5, v_scale=3.0)
        scaled = expected(layout, spec, q, k.float() * 0.5, v.float() * 3.0)
        np.testing.assert_allclose(out, scaled, rtol=2e-5, atol=2e-5)


def test_a_window_without_causality_is_refused() -> None:
    with pytest.raises(ValueError, match="does not support"):
        load_attention("reference", [AttentionSpec(4, 2, 8, 8, 0.3, window=4, causal=False)], CPU)


def test_latent_attention_reads_values_inside_the_keys() -> None:
    spec = AttentionSpec(4, 1, 12, 8, 0.3)
    layout = make_layout([(1, 50), (6, 20)], torch.randperm(80).int())
    q, cache = torch.randn(7, 4, 12), torch.randn(80, 1, 12)
    backend = load_attention("reference", [spec], CPU)
    out = backend.run(backend.plan(layout, spec), q, cache, cache[..., :8])
    np.testing.assert_allclose(out, expected(layout, spec, q, cache, cache[..., :8]), rtol=2e-5, atol=2e-5)


def test_shared_prefixes_change_nothing() -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    layout = make_layout([(1, 9), (1, 12), (3, 20)], torch.arange(41).int())
    hinted = replace(layout, shared=(SharedPrefix(0, 2, 8),))
    q, (k, v) = torch.randn(5, 4, 8), torch.randn(2, 41, 2, 8)
    backend = load_attention("reference", [spec], CPU)
    outs = [backend.run(backend.plan(each, spec), q, k, v) for each in (layout, hinted)]
    assert torch.equal(*outs)


def test_a_plan_is_refilled() -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    backend = load_attention("reference", [spec], CPU)
    k, v = torch.randn(2, 60, 2, 8)
    plan = backend.plan(make_layout([(1, 9), (1, 12), (3, 20)], torch.randperm(60).int()), spec)
    for lens in ([(1, 30)], [(3, 4), (1, 1), (1, 36)], [(1, 9), (1, 12), (3, 20)]):
        layout = make_layout(lens, torch.randperm(60).int())
        q = torch.randn(sum(layout.q_lens), 4, 8)
        assert backend.plan(layout, spec, plan) is plan
        np.testing.assert_allclose(
            backend.run(plan, q, k, v), expected(layout, spec, q, k, v), rtol=2e-5, atol=2e-5
        )


@pytest.mark.parametrize(
    ("lens", "message"),
    [
        ([(1, 2), (1, 2), (1, 2)], "into: was made for at most 2 requests, the layout has 3"),
        ([(1, 11), (1, 5)], "into: was made for at most 15 tokens, the layout has 16"),
        ([(2, 6)], "into: was made for at most 0 requests with several queries, the layout has 1"),
    ],
)
def test_a_plan_does_not_grow(lens: list[tuple[int, int]], message: str) -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    backend = load_attention("reference", [spec], CPU)
    plan = backend.plan(make_layout([(1, 9), (1, 6)], torch.arange(60)), spec)
    backend.plan(make_layout([(1, 3)], torch.arange(60)), spec, plan)  # what it was made for remains
    with pytest.raises(ValueError, match=message):
        backend.plan(make_layout(lens, torch.arange(60)), spec, plan)
    with pytest.raises(ValueError, match="into: is of another backend or spec"):
        backend.plan(make_layout([(1, 3)], torch.arange(60)), replace(spec, scale=1.0), plan)


@pytest.mark.parametrize("window", [None, 4])
def test_tokens_of_requests_may_lie_apart(window: int | None) -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3, window=window)
    layout = make_layout([(1, 5), (2, 7), (1, 20), (6, 6)], torch.randperm(60))
    q, (k, v) = torch.randn(10, 4, 8), torch.randn(2, 60, 2, 8)
    backend = load_attention("reference", [spec], CPU)
    outs = [backend.run(backend.plan(each, spec), q, k, v) for each in (layout, spread(layout))]
    torch.testing.assert_close(*outs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q_lens": (1, 2, 1)}, "kv_lens: has 2 requests, q_lens has 3"),
        ({"q_lens": (0, 3)}, "q_lens: every request needs a query"),
        ({"q_lens": (1, 8)}, "kv_lens: counts a request's queries too"),
        ({"kv_starts": (0,)}, "kv_starts: has 1 requests, q_lens has 2"),
        ({"kv_starts": (0, -1)}, "kv_starts: must not be negative"),
        ({"kv_starts": (0, 6)}, "kv_slots: has 12 slots, and the tokens of a request end at 13"),
        ({"kv_slots": torch.zeros(40)}, "kv_slots: must be int32 or int64"),
        (
            {"kv_slots": torch.zeros(11, dtype=torch.int32)},
            "kv_slots: has 11 slots, and the tokens of a request end at 12",
        ),
    ],
)
def test_a_layout_that_disagrees_is_refused(changed: dict[str, Any], message: str) -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    layout = replace(make_layout([(1, 5), (2, 7)], torch.arange(12)), **changed)
    with pytest.raises(ValueError, match=message):
        load_attention("reference", [spec], CPU).plan(layout, spec)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("q", torch.randn(4, 4, 8), r"q: must be of shape \[3, 4, 8\]"),
        ("q", torch.randn(3, 8, 4).transpose(1, 2), "q: elements of the last dimension"),
        ("q", torch.zeros(3, 4, 8, dtype=torch.float64), "q: must be float32 or float16 or bfloat16"),
        ("k_cache", torch.randn(12, 2, 9), "k_cache: must be of shape"),
        ("k_cache", torch.randn(12, 2, 8).half(), "k_cache: must be float32 or float8_e4m3fn"),
        ("v_cache", torch.randn(11, 2, 8), "v_cache: must be of shape"),
        ("v_cache", torch.randn(12, 2, 8).half(), "v_cache: must be float32, not float16"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(name: str, tensor: Tensor, message: str) -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3)
    backend = load_attention("reference", [spec], CPU)
    plan = backend.plan(make_layout([(1, 5), (2, 7)], torch.arange(12)), spec)
    tensors: dict[str, Any] = {
        "q": torch.randn(3, 4, 8),
        "k_cache": torch.randn(12, 2, 8),
        "v_cache": torch.randn(12, 2, 8),
    }
    with pytest.raises(ValueError, match=message):
        backend.run(plan, **(tensors | {name: tensor}))


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
    backend = load_attention("reference", [spec], CPU)
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
    backend = load_attention("reference", [spec], CPU)
    out = backend.run(backend.plan(layout, spec), q, k, v)
    assert out.dtype == torch.bfloat16
    assert np.abs(out.double().numpy() - expected(layout, spec, q, k, v)).max() < 0.03


def test_a_plan_serves_every_layer_and_dtype() -> None:
    spec = AttentionSpec(4, 2, 8, 8, 0.3, softcap=30.0)
    layout = make_layout([(1, 5), (1, 9), (3, 7)], torch.arange(30))
    backend = load_attention("reference", [spec], CPU)
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
    backend = load_attention("reference", [spec], CPU)
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
        moved = replace(layout, kv_slots=layout.kv_slots.to(device))
        backend = load_attention("reference", [spec], torch.device(device))
        outs.append(backend.run(backend.plan(moved, spec), q.to(device), k.to(device), v.to(device)).cpu())
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-4)
