# SPDX-License-Identifier: Apache-2.0
"""The division of requests among lanes: complete, in order, even, and in few pieces."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_kernels.attention.splits import divide


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=40),
    st.integers(1, 60),
    st.integers(1, 100),
    st.integers(0, 100),
    st.integers(0, 100),
)
def test_any_lengths(lengths: list[int], lanes: int, least: int, cost: int, snap: int) -> None:
    pieces = divide(np.array(lengths), lanes, least=least, cost=cost, snap=snap)
    reached = [0] * len(lengths)
    for owner, begin, end in zip(pieces.owner, pieces.begin, pieces.end, strict=True):
        assert begin == reached[owner] and end > begin
        reached[owner] = end
    assert reached == lengths
    assert (np.diff(pieces.owner) >= 0).all()
    assert len(pieces.owner) < len(lengths) + lanes
    assert pieces.number.tolist() == np.bincount(pieces.owner).tolist()
    assert len(pieces.lanes) == lanes + 1 and (np.diff(pieces.lanes) >= 0).all()
    assert (pieces.lanes[0], pieces.lanes[-1]) == (0, len(pieces.owner))
    work = [
        sum((pieces.end - pieces.begin)[a:b]) for a, b in zip(pieces.lanes, pieces.lanes[1:], strict=False)
    ]
    total = sum(lengths) + cost * len(lengths)
    assert max(work) <= total / min(lanes, max(1, total // (least + cost))) + 2 * snap + cost + 1


def test_a_long_request_is_on_all_lanes_and_a_short_one_on_one() -> None:
    assert divide(np.array([32000]), 64, least=64, cost=0, snap=32).number.tolist() == [64]
    assert divide(np.array([100]), 64, least=64, cost=0, snap=32).number.tolist() == [1]


def test_a_cut_near_an_edge_is_at_the_edge() -> None:
    lengths = np.array([1010, 1000, 990])
    assert divide(lengths, 3, least=1, cost=0, snap=0).number.tolist() == [2, 2, 1]
    assert divide(lengths, 3, least=1, cost=0, snap=32).number.tolist() == [1, 1, 1]


@pytest.mark.parametrize("lanes", [1, 5])
def test_no_requests(lanes: int) -> None:
    pieces = divide(np.zeros(0, np.int64), lanes, least=1, cost=1, snap=1)
    assert pieces.lanes.tolist() == [0] * (lanes + 1)
    assert len(pieces.owner) == len(pieces.number) == 0
