# SPDX-License-Identifier: Apache-2.0
"""The backend "triton" and its kernel of decode, interpreted, against the reference backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix, load_attention
from sgl_kernels._triton import decode_plan, few_queries
from sgl_kernels._triton.decode import run_decode
from sgl_kernels._triton.decode_float8 import as_words
from sgl_kernels._triton.decode_plan import DecodePlan, Tile, Tuning, plan_decode
from sgl_kernels.attention.arguments import kv_starts, starts
from sgl_kernels.attention.triton import TritonAttention, _TritonPlan

CPU = torch.device("cpu")
Lens = Sequence[tuple[int, int]]  # (q_len, kv_len) of each request
NARROW, WIDE = Tile(16, 16, 2, 3, 2, narrow=True), Tile(16, 16, 4, 3, 2)


def make_layout(lens: Lens, slots: Tensor, shared: Sequence[SharedPrefix] = ()) -> PagedLayout:
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    first = list(accumulate(kv_lens, initial=0))
    slots = slots[: first[-1]].clone()
    for leader, rows, tokens in shared:
        for r in range(leader, leader + rows):
            slots[first[r] : first[r] + tokens] = slots[first[leader] : first[leader] + tokens]
    return PagedLayout(slots, q_lens, kv_lens, shared=tuple(shared))


def in_a_page_table(layout: PagedLayout) -> PagedLayout:
    """The same requests, in the rows of a page table, the last one first."""
    table = torch.full((len(layout.q_lens) + 1, 80), 1 << 20, dtype=layout.kv_slots.dtype)
    begins = kv_starts(layout).tolist()
    for r, (begin, length) in enumerate(zip(begins, layout.kv_lens, strict=True)):
        table[-1 - r, :length] = layout.kv_slots[begin : begin + length]
    rows = tuple(80 * (len(table) - 1 - r) for r in range(len(begins)))
    return replace(layout, kv_slots=table.flatten(), kv_starts=rows)


def plan_of(layout: PagedLayout, spec: AttentionSpec, tuning: Tuning, into: DecodePlan | None = None):
    single = [r for r, q_len in enumerate(layout.q_lens) if q_len == 1]
    return plan_decode(layout, spec, single, starts(layout.q_lens), kv_starts(layout), into, tuning)


def tensors(
    layout: PagedLayout, spec: AttentionSpec, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Strided views of q and caches; NaN in what belongs to nobody, which must not be read."""
    slots = int(layout.kv_slots.max()) + 3 if len(layout.kv_slots) else 3
    owned = torch.zeros(slots, dtype=torch.bool).index_fill_(0, layout.kv_slots.long(), True)[:, None, None]
    q = torch.randn(sum(layout.q_lens), spec.q_heads + 1, spec.head_dim + 8).to(dtype)[:, 1:, :-8]
    k = torch.randn(slots, spec.kv_heads, spec.head_dim + 16).where(owned, float("nan"))[..., 8:-8]
    v = torch.randn(spec.kv_heads, slots, spec.v_dim).transpose(0, 1).where(owned, float("nan"))
    return q, k.to(dtype), v.to(dtype)


def expected(
    layout: PagedLayout, spec: AttentionSpec, q: Tensor, k: Tensor, v: Tensor, k_scale: float, v_scale: float
) -> Tensor:
    backend = load_attention("reference", [spec], CPU)
    plan = backend.plan(layout, spec)
    return backend.run(plan, q.float(), k.float(), v.float(), k_scale=k_scale, v_scale=v_scale)


def compare(
    plan: DecodePlan,
    layout: PagedLayout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scales: tuple[float, float] = (1.0, 1.0),
    tolerance: float = 2e-5,
    times: int = 2,
) -> None:
    """Rows of requests with one query are the reference's, others are not touched; twice, as by layers."""
    reference = expected(layout, plan.spec, q, k, v, *scales)
    single = [r for r, q_len in enumerate(layout.q_lens) if q_len == 1]
    rows = torch.from_numpy(starts(layout.q_lens))[single]
    others = torch.ones(len(q), dtype=torch.bool).index_fill_(0, rows, False)
    for _ in range(times):
        out = torch.full((len(q), plan.spec.q_heads, plan.spec.v_dim + 3), float("nan"), dtype=q.dtype)[
            ..., :-3
        ]
        run_decode(plan, q, k, v, out, *scales)
        torch.testing.assert_close(out[rows].float(), reference[rows], rtol=tolerance, atol=tolerance)
        assert out[others].isnan().all()


SPECS = st.builds(
    lambda kv, group, dims, window, softcap: AttentionSpec(
        kv * group, kv, dims[0], dims[1], dims[0] ** -0.5, window, softcap
    ),
    kv=st.integers(1, 2),
    group=st.sampled_from([1, 2, 5, 16, 17]),
    dims=st.sampled_from([(16, 16), (8, 12), (24, 8), (48, 40), (64, 64)]),
    window=st.none() | st.integers(1, 90),
    softcap=st.none() | st.floats(0.5, 30),
)
TUNINGS = st.builds(
    lambda tile, programs, least, cost, snap, merged: Tuning(
        tile._replace(residents=programs), None, least, cost, snap, merged=merged
    ),
    tile=st.sampled_from([NARROW, WIDE, NARROW._replace(tokens=32)]),
    programs=st.integers(1, 4),
    least=st.integers(1, 20),
    cost=st.integers(0, 9),
    snap=st.integers(0, 5),
    merged=st.sampled_from([1, 2, 16]),
)


@settings(max_examples=24, deadline=None, derandomize=True)
@given(SPECS, TUNINGS, st.lists(st.integers(1, 130), min_size=1, max_size=4), st.integers(0, 99))
def test_any_layout(spec: AttentionSpec, tuning: Tuning, lengths: list[int], seed: int) -> None:
    lens = [(2 if seed % 5 == 0 and i == 1 and n > 1 else 1, n) for i, n in enumerate(lengths)]
    slots = torch.randperm(sum(lengths) + 5, generator=torch.Generator().manual_seed(seed))
    layout = make_layout(lens, slots.int() if seed % 2 else slots)
    compare(plan_of(layout, spec, tuning), layout, *tensors(layout, spec))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    spec=SPECS,
    tuning=TUNINGS,
    groups=st.lists(
        st.tuples(st.integers(1, 5), st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=2
    ),
    alone=st.lists(st.integers(1, 60), max_size=2),
    rows=st.sampled_from([16, 32]),
)
def test_any_shared_prefixes(
    spec: AttentionSpec,
    tuning: Tuning,
    groups: list[tuple[int, int, int]],
    alone: list[int],
    rows: int,
) -> None:
    lens, shared = [(1, n) for n in alone], []
    for number, tokens, own in groups:
        shared.append(SharedPrefix(len(lens), number, tokens))
        lens += [(1, tokens + own + i) for i in range(number)]
    layout = make_layout(lens, torch.randperm(sum(n for _, n in lens)), shared)
    tuning = tuning._replace(shared_tile=WIDE._replace(rows=rows), shared_least=1)
    compare(plan_of(layout, spec, tuning), layout, *tensors(layout, spec))


def test_a_shared_prefix_is_read_once() -> None:
    spec = AttentionSpec(4, 1, 16, 16, 0.3)
    lens = [(1, 40 + i) for i in range(8)]
    layout = make_layout(lens, torch.randperm(400), [SharedPrefix(0, 8, 32)])
    tuning = Tuning(NARROW, WIDE._replace(rows=16), shared_least=32)
    records = plan_of(layout, spec, tuning).sections
    pieces, shared = (section.view(-1, decode_plan.PIECE) for section in (records[2], records[3]))
    assert (shared[:, 3] - shared[:, 2]).sum() == 2 * 32  # two tiles of four requests
    assert (pieces[:, 3] - pieces[:, 2]).sum() == sum(8 + i for i in range(8))
    for unused in (
        replace(spec, window=46),  # hides the beginning of the prefix from the longest
        replace(spec, q_heads=16),  # one request fills a tile
    ):
        assert not any(section[:, 2:4].any() for section in [plan_sections(layout, unused, tuning)])


def plan_sections(layout: PagedLayout, spec: AttentionSpec, tuning: Tuning) -> Tensor:
    return plan_of(layout, spec, tuning).sections[3].view(-1, decode_plan.PIECE)


@pytest.mark.parametrize("tile", [NARROW, WIDE])
@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_narrow_caches_with_scales(tile: Tile, kind: torch.dtype, dtype: torch.dtype) -> None:
    spec = AttentionSpec(6, 2, 48, 32, 0.2)
    layout = make_layout([(1, 40), (1, 3)], torch.randperm(45).int())
    q, k, v = tensors(layout, spec, dtype)
    k, v = k.nan_to_num().to(kind), v.nan_to_num().to(kind)
    q[1, 2] = 0.0
    q[0] *= 2e4 / q[0].abs().max()  # its products with keys leave float16
    tolerance = 4e-3 if dtype == torch.float16 else 2e-5
    plan = plan_of(layout, spec, Tuning(tile))
    compare(plan, layout, q, k, v, scales=(2e-5, 3.0), tolerance=tolerance)


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_float8_is_read_in_words(kind: torch.dtype) -> None:
    """Every finite number there is, subnormal ones too, in keys and in values; pieces and a soft cap."""
    spec = AttentionSpec(6, 2, 64, 128, 0.2, softcap=9.0)
    layout = make_layout([(1, 190), (1, 3)], torch.randperm(200).int())
    numbers = torch.arange(256, dtype=torch.uint8).view(kind).float()
    numbers = numbers[numbers.isfinite()]
    q = torch.randn(2, 6, 64).half()
    # Strides of whole words, and heads before slots.
    k = numbers[torch.randint(len(numbers), (2, 203, 72))].to(kind)[..., 4:68].transpose(0, 1)
    v = numbers[torch.randint(len(numbers), (203, 2, 128))].to(kind)
    assert as_words(spec, k, v)
    assert not as_words(spec, k, v.view(torch.uint8).new_empty(203, 2, 129).view(kind)[..., :128])
    plan = plan_of(layout, spec, Tuning(NARROW))
    compare(plan, layout, q, k, v, scales=(2e-3, 0.5), tolerance=4e-3 * float(numbers.max()))
    small = (k.float() / 4096).to(kind), (v.float() / 4096).to(kind)
    compare(plan, layout, q, *small, scales=(2.0, 0.5), tolerance=4e-3 * float(numbers.max()) / 4096)


@pytest.mark.parametrize("heads", [5, 33])
def test_latent_attention(heads: int) -> None:
    spec = AttentionSpec(heads, 1, 576, 512, 0.05)
    layout = make_layout([(1, 70), (1, 2)], torch.randperm(80).int())
    q, cache = torch.randn(2, heads, 576), torch.randn(80, 1, 576)
    plan = plan_of(layout, spec, Tuning())
    compare(plan, layout, q, cache, cache[..., :512], tolerance=1e-4)
    compare(plan, layout, q, cache, torch.randn(80, 1, 512), tolerance=1e-4)  # values of their own


def test_slots_beyond_two_to_the_31_elements(tmp_path: Path) -> None:
    raw = np.memmap(tmp_path / "sparse", dtype=np.uint8, mode="w+", shape=(1 << 31) + (1 << 21))
    cache = torch.from_numpy(raw).view(torch.float8_e5m2).as_strided((2050, 1, 16), (1 << 20, 16, 1))
    slots = torch.tensor([2049, 0, 2048, 7, 2047], dtype=torch.int32)
    for slot in slots.tolist():
        cache[slot] = torch.randn(1, 16).to(cache.dtype)
    spec = AttentionSpec(2, 1, 16, 16, 0.5)
    layout = make_layout([(1, 5)], slots)
    for tile in (NARROW, WIDE):
        compare(plan_of(layout, spec, Tuning(tile)), layout, torch.randn(1, 2, 16), cache, cache, times=1)


def test_a_plan_is_refilled_in_place() -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    tuning = Tuning(NARROW, WIDE, least=8, shared_least=8)
    first = make_layout([(1, 150), (1, 60), (1, 50), (1, 44)], torch.randperm(304), [SharedPrefix(1, 3, 40)])
    plan = plan_of(first, spec, tuning)
    places = [x.data_ptr() for x in (plan.table, plan.parts, plan.sums)]
    for lens, shared in (
        ([(1, 300)], []),
        ([(1, 1)] * 4, []),
        ([(1, 90), (1, 91), (1, 9)], [SharedPrefix(0, 2, 80)]),
        ([], []),
        ([(1, 150), (1, 60), (1, 50), (1, 44)], [SharedPrefix(1, 3, 40)]),
    ):
        layout = make_layout(lens, torch.randperm(304), shared)
        assert plan_of(layout, spec, tuning, plan) is plan
        assert [x.data_ptr() for x in (plan.table, plan.parts, plan.sums)] == places
        compare(plan, layout, *tensors(layout, spec))


@pytest.fixture
def backend() -> Iterator[TritonAttention]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_plan, "tile_for", lambda spec: NARROW if spec.head_dim <= 256 else WIDE)
        patch.setattr(decode_plan, "shared_tile_for", lambda spec: WIDE)
        yield TritonAttention(CPU)


@pytest.mark.parametrize(
    "lens", [[(1, 20)], [(4, 20)], [(1, 30), (5, 9), (1, 1), (12, 70)], [(2, 2), (1, 40)], []]
)
def test_the_backend_divides_a_batch(backend: TritonAttention, lens: Lens) -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3, window=33, softcap=9.0)
    layout = make_layout(lens, torch.randperm(150))
    q, k, v = tensors(layout, spec)
    reference = expected(layout, spec, q, k, v, 0.5, 2.0)
    for each in (layout, in_a_page_table(layout)):
        out = backend.run(backend.plan(each, spec), q, k, v, k_scale=0.5, v_scale=2.0)
        assert out.shape == (len(q), 4, 16)
        torch.testing.assert_close(out, reference, rtol=2e-5, atol=2e-5)


def test_the_backend_refills_a_plan(backend: TritonAttention) -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    layouts: dict[str, Lens] = {
        "decode": [(1, 60), (1, 50), (1, 40)],
        "both": [(1, 60), (9, 50), (3, 40)],
        "extend": [(7, 60), (9, 50), (3, 40)],
    }
    for made_for, refills in (
        ("decode", ["decode"]),
        ("both", ["both", "decode"]),
        ("extend", ["both", "decode"]),
    ):
        plan = backend.plan(make_layout(layouts[made_for], torch.randperm(150)), spec)
        for name in refills:
            layout = make_layout(layouts[name], torch.randperm(150))
            assert backend.plan(layout, spec, into=plan) is plan
            q, k, v = tensors(layout, spec)
            reference = expected(layout, spec, q, k, v, 1.0, 1.0)
            torch.testing.assert_close(backend.run(plan, q, k, v), reference, rtol=2e-5, atol=2e-5)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to four queries after ten tokens are few, however many requests there are."""
    monkeypatch.setattr(few_queries, "LEAST_PREFIX", 10)
    monkeypatch.setattr(few_queries, "processors", lambda device: 1000)
    monkeypatch.setattr(few_queries, "shared_tile_for", lambda spec: WIDE._replace(rows=8))


@pytest.mark.parametrize("softcap", [None, 9.0])
@pytest.mark.parametrize("lens", [[(3, 70)], [(1, 30), (2, 25), (4, 80), (5, 40), (3, 8), (1, 1)]])
def test_few_queries_are_decoded(
    backend: TritonAttention, few: None, lens: Lens, softcap: float | None
) -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3, softcap=softcap)
    layout = make_layout(lens, torch.randperm(300))
    # As in a page table: the last request first, a gap before each.
    rows, begin = [], []
    for r in reversed(range(len(lens))):
        begin.insert(0, sum(map(len, rows)) + 7)
        first = sum(layout.kv_lens[:r])
        rows += [layout.kv_slots[:7], layout.kv_slots[first : first + layout.kv_lens[r]]]
    layout = replace(layout, kv_slots=torch.cat(rows), kv_starts=tuple(begin))
    q, k, v = tensors(layout, spec)
    plan = backend.plan(layout, spec)
    assert isinstance(plan, _TritonPlan) and plan.decode is not None and plan.decode.shared_lanes
    assert (plan.extend is None) == (len(lens) == 1)
    out = backend.run(plan, q, k, v, k_scale=0.5, v_scale=2.0)
    torch.testing.assert_close(out, expected(layout, spec, q, k, v, 0.5, 2.0), rtol=2e-5, atol=2e-5)


def test_a_plan_of_few_queries_is_refilled(backend: TritonAttention, few: None) -> None:
    """With layouts of more queries than are few, with several prefixes that are shared, with single ones."""
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    for made_for in ([(4, 70), (1, 30), (3, 40), (1, 20)], [(4, 70), (1, 20), (1, 20), (20, 50)]):
        plan = backend.plan(make_layout(made_for, torch.randperm(300)), spec)
        refills: list[tuple[Lens, list[SharedPrefix]]] = [
            ([(9, 60)], []),
            ([(2, 5), (1, 40), (1, 41)], [SharedPrefix(1, 2, 30)]),
            ([(4, 70), (1, 30), (4, 40)], []),
        ]
        for lens, shared in refills:
            layout = make_layout(lens, torch.randperm(300), shared)
            assert backend.plan(layout, spec, into=plan) is plan
            q, k, v = tensors(layout, spec)
            reference = expected(layout, spec, q, k, v, 1.0, 1.0)
            torch.testing.assert_close(backend.run(plan, q, k, v), reference, rtol=2e-5, atol=2e-5)


def test_what_the_backend_refuses(backend: TritonAttention) -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    layout = make_layout([(1, 30), (1, 40)], torch.arange(70))
    plan = backend.plan(layout, spec)
    q, k, v = tensors(layout, spec)
    for arguments, name in (
        ((q[:1], k, v), "q"),
        ((q, k.double(), v), "k_cache"),
        ((q, k, v[:, :1]), "v_cache"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: "):
            backend.run(plan, *arguments)
    for lens in ([(1, 1)] * 3, [(1, 71)], [(2, 5)]):
        with pytest.raises(ValueError, match=r"^into: "):
            backend.plan(make_layout(lens, torch.arange(80)), spec, into=plan)
    with pytest.raises(ValueError, match=r"^into: is of another"):
        backend.plan(layout, replace(spec, scale=0.4), into=plan)
    with pytest.raises(ValueError, match=r"^spec: "):
        backend.plan(layout, replace(spec, window=0))
    for shared in (
        [SharedPrefix(0, 3, 1)],
        [SharedPrefix(0, 2, 30)],
        [SharedPrefix(1, 1, 4), SharedPrefix(0, 1, 4)],
        [SharedPrefix(0, 0, 4)],
    ):
        with pytest.raises(ValueError, match=r"^shared: "):
            backend.plan(replace(layout, shared=tuple(shared)), spec)


@pytest.mark.parametrize(
    ("spec", "supported"),
    [
        (AttentionSpec(32, 8, 128, 128, 0.1), True),
        (AttentionSpec(128, 1, 576, 512, 0.1), True),
        (AttentionSpec(4, 4, 256, 256, 0.1, window=1, softcap=50.0), True),
        (AttentionSpec(4, 4, 192, 128, 0.1, causal=False), True),
        (AttentionSpec(4, 4, 320, 320, 0.1), False),
        (AttentionSpec(4, 4, 640, 512, 0.1), False),
        (AttentionSpec(5, 4, 64, 64, 0.1), False),
        (AttentionSpec(4, 4, 64, 64, 0.1, window=5, causal=False), False),
    ],
)
def test_what_is_supported(backend: TritonAttention, spec: AttentionSpec, supported: bool) -> None:
    assert backend.supports(spec) == supported
