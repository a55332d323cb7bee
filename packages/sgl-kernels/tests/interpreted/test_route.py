# SPDX-License-Identifier: Apache-2.0
"""The Triton router, interpreted, against the reference: the same experts, and their weights."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sgl_kernels
from sgl_kernels._triton import route

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_any_router(data: st.DataObject) -> None:
    groups, size = data.draw(st.integers(1, 9)), data.draw(st.integers(2, 20))
    kept, tokens = data.draw(st.integers(1, groups)), data.draw(st.integers(0, 5))
    top_k = data.draw(st.integers(1, min(9, kept * size)))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    scoring: Literal["softmax", "sigmoid"] = data.draw(st.sampled_from(["softmax", "sigmoid"]))
    # All scores of a token differ in any dtype: which of equals is chosen is not defined.
    logits = torch.stack(
        [torch.randperm(groups * size) for _ in range(tokens)] or [torch.zeros(groups * size)]
    )
    logits = (logits[:tokens] / 16 - 5).to(dtype)
    if data.draw(st.booleans()):
        logits = logits.t().contiguous().t()
    options: dict[str, Any] = {
        "renormalise": data.draw(st.booleans()),
        "scale": data.draw(st.sampled_from([1.0, 2.5])),
        "bias": torch.randn(groups * size) if data.draw(st.booleans()) else None,
        "groups": groups,
        "kept_groups": kept,
    }
    weights, experts = route.route(logits, top_k, sigmoid=scoring == "sigmoid", **options)
    expected = sgl_kernels.route(logits, top_k, scoring=scoring, **options)
    assert experts.dtype == torch.int32
    assert torch.equal(experts, expected[1])
    torch.testing.assert_close(weights, expected[0], rtol=1e-5, atol=1e-7)


def test_what_is_not_a_number_stays_in_its_row() -> None:
    logits = torch.randn(3, 6)
    logits[1, 2] = float("nan")
    bias = torch.tensor([0.0, float("-inf"), 0.0, 0.0, float("-inf"), 0.0])
    arguments: dict[str, Any] = {"renormalise": True, "scale": 1.0, "groups": 3, "kept_groups": 2}
    weights, experts = route.route(logits, 2, sigmoid=True, bias=bias, **arguments)
    assert ((experts >= 0) & (experts < 6)).all()
    assert weights[1].isnan().all()
    assert torch.equal(
        experts[[0, 2]], sgl_kernels.route(logits, 2, scoring="sigmoid", bias=bias, **arguments)[1][[0, 2]]
    )


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    tokens=st.integers(0, 70),
    top_k=st.integers(1, 9),
    count=st.integers(1, 4),
    kind=st.sampled_from([torch.int32, torch.int64]),
    gated=st.booleans(),
)
def test_shared_experts(tokens: int, top_k: int, count: int, kind: torch.dtype, gated: bool) -> None:
    weights, experts = torch.rand(tokens, top_k), torch.randint(0, 60, (tokens, top_k)).to(kind)
    gate = torch.rand(tokens, 2)[:, 1] if gated else None
    more = route.with_shared_experts(weights, experts, 60, count, gate)
    for ours, expected in zip(
        more, sgl_kernels.with_shared_experts(weights, experts, 60, count, gate), strict=True
    ):
        assert ours.dtype == expected.dtype and torch.equal(ours, expected)
