# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of extend, interpreted, against the reference backend."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, load_attention
from sgl_kernels._triton import extend, extend_plan
from sgl_kernels.attention.arguments import kv_starts, starts

CPU = torch.device("cpu")
Lens = list[tuple[int, int]]  # (q_len, kv_len) of each request
WAYS = ["paged", "gathered"]


def make_layout(lens: Lens, slots: Tensor) -> PagedLayout:
    q_lens, kv_lens = tuple(q for q, _ in lens), tuple(kv for _, kv in lens)
    return PagedLayout(
        slots[: sum(kv_lens)],
        q_lens,
        kv_lens,
    )


def plan_of(
    layout: PagedLayout,
    spec: AttentionSpec,
    way: str,
    requests: list[int] | None = None,
    into: extend.ExtendPlan | None = None,
) -> extend.ExtendPlan:
    chosen = list(range(len(layout.q_lens))) if requests is None else requests
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extend_plan, "way_of", lambda *_: way)
        return extend.plan_extend(
            layout, spec, chosen, starts(layout.q_lens).tolist(), kv_starts(layout).tolist(), into
        )


def compare(
    plan: extend.ExtendPlan,
    layout: PagedLayout,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    requests: list[int] | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
    tolerance: float = 2e-5,
) -> None:
    """Rows of the chosen requests are the reference's, computed in float32; the others are not touched."""
    spec = plan.spec
    out = torch.full((len(q), spec.q_heads, spec.v_dim + 3), float("nan"), dtype=q.dtype)[..., :-3]
    extend.run_extend(plan, q, k, v, out, *scales)
    backend = load_attention("reference", [spec], CPU)
    wide = (q.float(), k.float(), v.float())
    expected = backend.run(backend.plan(layout, spec), *wide, k_scale=scales[0], v_scale=scales[1])
    for r, (begin, q_len) in enumerate(zip(starts(layout.q_lens), layout.q_lens, strict=True)):
        rows = slice(begin, begin + q_len)
        if requests is None or r in requests:
            torch.testing.assert_close(out[rows].float(), expected[rows], rtol=tolerance, atol=tolerance)
        else:
            assert out[rows].isnan().all()


def caches(layout: PagedLayout, spec: AttentionSpec, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """NaN in what belongs to nobody, which must not be read."""
    slots = sum(layout.kv_lens) + 5
    owned = torch.zeros(slots, dtype=torch.bool).index_fill_(0, layout.kv_slots.long(), True)[:, None, None]
    return [
        torch.randn(slots, spec.kv_heads, dim).where(owned, float("nan")).to(dtype)
        for dim in (spec.head_dim, spec.v_dim)
    ]


SPECS = st.builds(
    lambda kv, group, dims, window, softcap, causal: AttentionSpec(
        kv * group, kv, dims[0], dims[1], dims[0] ** -0.5, window if causal else None, softcap, causal
    ),
    kv=st.integers(1, 2),
    group=st.integers(1, 5),
    dims=st.sampled_from([(16, 16), (24, 8), (48, 40), (40, 48), (64, 32)]),
    window=st.none() | st.integers(1, 90),
    softcap=st.none() | st.floats(0.5, 30),
    causal=st.booleans(),
)
# (cached prefix, queries)
REQUESTS = st.one_of(
    st.tuples(st.just(0), st.integers(1, 70)),
    st.tuples(st.integers(0, 150), st.integers(1, 12)),
).map(lambda request: (request[1], request[0] + request[1]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    SPECS,
    st.lists(REQUESTS, min_size=1, max_size=3),
    st.sampled_from(WAYS),
    st.randoms(use_true_random=False),
)
def test_any_layout(spec: AttentionSpec, lens: Lens, way: str, random: Random) -> None:
    layout = make_layout(lens, torch.randperm(sum(kv for _, kv in lens) + 5))
    q = torch.randn(sum(layout.q_lens), spec.q_heads + 1, spec.head_dim)[:, 1:]  # strided, as layers pass it
    requests = random.sample(range(len(lens)), random.randint(0, len(lens)))
    plan = plan_of(layout, spec, way, requests)
    compare(plan, layout, q, *caches(layout, spec), requests=requests)


@pytest.mark.parametrize("window", [None, 1, 63, 64, 65, 128, 200])
def test_tiles_and_blocks_at_every_offset(window: int | None) -> None:
    spec = AttentionSpec(2, 1, 16, 16, 0.3, window=window)
    lens = [(64, 64), (65, 129), (130, 257), (1, 192), (127, 127), (70, 132), (9, 72)]
    layout = make_layout(lens, torch.randperm(978).int())
    compare(plan_of(layout, spec, "paged"), layout, torch.randn(466, 2, 16), *caches(layout, spec))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16])
def test_narrow_caches_with_scales(dtype: torch.dtype, way: str) -> None:
    spec = AttentionSpec(4, 2, 32, 32, 0.2)
    layout = make_layout([(9, 40), (30, 30)], torch.randperm(75).int())
    q = torch.randn(39, 4, 32).half()  # the interpreter multiplies no bfloat16
    k, v = (torch.randn(75, 2, 2, 32).to(dtype)[:, 1] for _ in range(2))  # halves of pairs
    compare(plan_of(layout, spec, way), layout, q, k, v, scales=(0.5, 3.0), tolerance=1e-2)


@pytest.mark.parametrize("way", WAYS)
def test_heads_before_slots(way: str) -> None:
    spec = AttentionSpec(4, 2, 32, 16, 0.2, softcap=5.0)
    layout = make_layout([(9, 40), (30, 30)], torch.randperm(75))
    k, v = (torch.randn(2, 75, dim).transpose(0, 1) for dim in (32, 16))
    compare(plan_of(layout, spec, way), layout, torch.randn(39, 4, 32), k, v)


@pytest.mark.parametrize("way", WAYS)
def test_latent_attention(way: str) -> None:
    spec = AttentionSpec(5, 1, 576, 512, 0.05)
    layout = make_layout([(3, 70), (2, 2)], torch.randperm(80))
    q, cache = torch.randn(5, 5, 576), torch.randn(80, 1, 576)
    compare(plan_of(layout, spec, way), layout, q, cache, cache[..., :512], tolerance=1e-4)
    values = torch.randn(80, 1, 512)  # of no relation to the keys
    compare(plan_of(layout, spec, way), layout, q, cache, values, tolerance=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_slots_far_apart(way: str) -> None:
    """The second slot lies 2³¹ elements behind the first; of the memory between them no page is touched."""
    cache = torch.empty(2**31 + 16, dtype=torch.float8_e5m2).as_strided((2, 1, 16), (2**31, 16, 1))
    cache[:, 0] = torch.randn(2, 16).to(cache.dtype)
    spec = AttentionSpec(2, 1, 16, 16, 0.5)
    layout = make_layout([(2, 2)], torch.tensor([1, 0], dtype=torch.int32))
    compare(plan_of(layout, spec, way), layout, torch.randn(2, 2, 16), cache, cache)


@pytest.mark.parametrize("way", WAYS)
def test_a_plan_is_refilled(way: str) -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    first = make_layout([(40, 90), (1, 60), (30, 50)], torch.randperm(205))
    plan = plan_of(first, spec, way)
    for lens, requests in (([(2, 3), (66, 90)], [0, 1]), ([(5, 199), (1, 1)], [0]), ([(71, 71)], [])):
        layout = make_layout(lens, torch.randperm(205))
        assert plan_of(layout, spec, way, requests, plan) is plan
        assert way == "paged" or bool((plan.slots[plan.live :] == -2).all())  # a graph gathers them, too
        k, v = torch.randn(2, 205, 2, 16)
        compare(plan, layout, torch.randn(sum(layout.q_lens), 4, 16), k, v, requests=requests)


def test_a_plan_does_not_grow() -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    layout = make_layout([(4, 300), (1, 500)], torch.arange(900))
    plan = plan_of(layout, spec, "gathered", [0])
    plan_of(
        make_layout([(2, 3)], torch.arange(900)), spec, "gathered", [0], plan
    )  # what it was made for remains
    for lens, message in (
        ([(1, 1)] * 3, "into: was made for at most 2 requests, the layout has 3"),
        ([(6, 9)], "into: was made for at most 5 queries, the layout has 6"),
        ([(2, 801)], "into: was made for at most 800 tokens, the layout has 801"),
    ):
        with pytest.raises(ValueError, match=message):
            plan_of(make_layout(lens, torch.arange(900)), spec, "gathered", None, plan)
    with pytest.raises(ValueError, match="into: is of another spec"):
        plan_of(layout, replace(spec, scale=0.4), "gathered", [0], plan)


def test_no_requests() -> None:
    spec = AttentionSpec(4, 2, 16, 16, 0.3)
    layout = make_layout([], torch.arange(0))
    extend.run_extend(
        plan_of(layout, spec, "paged"),
        torch.empty(0, 4, 16),
        torch.randn(3, 2, 16),
        torch.randn(3, 2, 16),
        torch.empty(0, 4, 16),
        1.0,
        1.0,
    )


LLAMA = AttentionSpec(32, 8, 128, 128, 0.1)


@pytest.mark.parametrize(
    ("spec", "lens", "hopper", "way"),
    [
        (LLAMA, [(2048, 2048)] * 8, False, "gathered"),
        (LLAMA, [(2048, 2048)] * 8, True, "hopper"),
        (LLAMA, [(2048, 10240)], False, "gathered"),
        (LLAMA, [(16, 32768)], False, "paged"),
        (LLAMA, [(16, 32768)], True, "paged"),
        (LLAMA, [(16384, 1 << 20)], False, "paged"),  # too much to copy
        (replace(LLAMA, window=128), [(16384, 16384)], False, "paged"),
        (LLAMA, [(2048, 2048), (8, 100), (8, 100)] * 3, True, "hopper"),
        (replace(LLAMA, head_dim=96, v_dim=96), [(2048, 2048)] * 8, True, "gathered"),
    ],
)
def test_the_way_follows_from_the_lengths(
    spec: AttentionSpec, lens: Lens, hopper: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extend_plan, "capability", lambda _: (9, 0) if hopper else (8, 0))
    q_lens, kv_lens = np.array(lens).T
    assert extend_plan.way_of(spec, q_lens, kv_lens, CPU) == way


def test_runs_of_slots_are_found_and_not_gathered() -> None:
    spec = AttentionSpec(4, 2, 64, 64, 0.3)
    slots = torch.cat([torch.arange(500, 756), torch.arange(300), torch.arange(799, 759, -1)])
    layout = make_layout([(200, 256), (340, 340)], slots.int())
    plan = plan_of(layout, spec, "hopper")
    assert plan.runs.tolist() == [500, 628, 0, 128, -1, -1]
    strange = slots.clone()
    strange[300] = 760
    assert plan_of(replace(layout, kv_slots=strange), spec, "hopper").runs.tolist() == [
        500,
        628,
        -1,
        128,
        -1,
        -1,
    ]
    cache = torch.randn(800, 2, 64)
    keys, values = extend.gather(plan, cache, cache, torch.float16, runs=True)
    copied = torch.cat([slots[256 + 256 :], slots.new_full((44,), -1)])
    expected = cache[copied].where(copied[:, None, None] >= 0, 0.0).half()
    assert torch.equal(keys[512:640], expected[:128])
    assert torch.equal(values[512:], expected)


def test_hopper_takes_tiles_in_the_order_of_their_work() -> None:
    spec = AttentionSpec(4, 2, 64, 64, 0.3)
    layout = make_layout([(300, 300), (128, 1000), (5, 40)], torch.arange(1400))
    plan = plan_of(layout, spec, "hopper")
    tiles = plan.tiles[: 3 + 1 + 1]
    assert tiles[:, :5].tolist() == [
        [300, 128, 384, 1000, 0],
        [0, 300, 0, 300, 256],
        [0, 300, 0, 300, 128],
        [0, 300, 0, 300, 0],
        [428, 5, 1408, 40, 0],
    ]
    assert not plan.tiles[5:].any()
    assert plan.slots[295:390].tolist() == [*range(295, 300), *[-1] * 84, *range(300, 306)]


@pytest.mark.parametrize(
    "spec",
    [
        AttentionSpec(5, 2, 16, 16, 0.3),
        AttentionSpec(4, 2, 16, 16, 0.3, window=0),
        AttentionSpec(4, 2, 16, 16, 0.3, window=4, causal=False),
        AttentionSpec(4, 2, 640, 16, 0.3),
        AttentionSpec(4, 2, 16, 16, 0.0),
    ],
)
def test_what_is_not_supported(spec: AttentionSpec) -> None:
    assert not extend.supports_extend(spec)
    assert extend.supports_extend(AttentionSpec(4, 2, 16, 16, 0.3))


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from sgl_kernels._triton.extend_hopper import _attend

def of(rows, columns):
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], gl.bfloat16)
    return f"tensordesc<bf16[{rows}, {columns}],{layout!r}>"

numbers = dict.fromkeys(["items", "programs", "out_token", "out_head"], "i32")
numbers |= dict.fromkeys(["inner", "outer", "v_scale"], "fp32")
pointers = {"tiles": "*i32", "runs": "*i32", "out_ptr": "*bf16"}
blocks = {"q_desc": of(64, 128)}
blocks |= dict.fromkeys(["k_desc", "v_desc", "k_cache", "v_cache"], of(128, 128))
constants = dict(
    HEADS=32, GROUP=4, D=128, DV=128, CAUSAL=True, WINDOW=1024, SOFTCAP=True, DIRECT=True, N=128, STAGES=2,
    REGISTERS=240, LOADER_REGISTERS=24,
)
names = _attend.arg_names
signature = {name: (numbers | pointers | blocks).get(name, "constexpr") for name in names}
source = GluonASTSource(_attend, signature, {(names.index(name),): x for name, x in constants.items()})
kernel = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
assert "wgmma.mma_async" in kernel.asm["ptx"]
assert kernel.metadata.shared <= 232448  # what a program of a Hopper may have
print("compiled")
"""


def test_the_kernel_for_hopper_compiles() -> None:
    """Gluon has no interpreter: without a GPU this is all that can be seen of it."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "compiled\n", done.stderr
