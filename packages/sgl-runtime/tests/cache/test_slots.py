# SPDX-License-Identifier: Apache-2.0
"""`SlotPool` and `RowPool` against a set of what is free."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from sgl_runtime.cache.rows import RowPool
from sgl_runtime.cache.slots import SlotPool


def test_a_fresh_pool_hands_out_ascending_runs() -> None:
    pool = SlotPool(10)
    assert pool.take(4).tolist() == [0, 1, 2, 3]
    assert pool.take(3).tolist() == [4, 5, 6]
    assert pool.take(0).tolist() == []
    assert pool.free == 3


@settings(derandomize=True, database=None, max_examples=100)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_every_slot_has_one_owner(operations: list[tuple[bool, int]]) -> None:
    pool, free, held = SlotPool(24), set(range(24)), list[int]()
    for take, count in operations:
        if take and count <= pool.free:
            slots = pool.take(count).tolist()
            assert len(set(slots)) == count and free.issuperset(slots)
            free.difference_update(slots)
            held.extend(slots)
        elif not take:
            returned = held[::2][:count]
            held = [slot for slot in held if slot not in returned]
            free.update(returned)
            pool.give(np.array(returned, np.int32))
        assert pool.free == len(free)


def test_what_was_taken_is_the_callers_own_copy() -> None:
    pool = SlotPool(6)
    first = pool.take(3)
    pool.give(first.copy())
    pool.take(6)[:] = -1
    pool.give(np.arange(6, dtype=np.int32))
    assert sorted(pool.take(6).tolist()) == list(range(6))
    assert first.tolist() == [0, 1, 2]


def test_misuse_is_an_assertion() -> None:
    pool = SlotPool(4)
    with pytest.raises(AssertionError, match="5 slots wanted, 4 free"):
        pool.take(5)
    slots = pool.take(2)
    pool.give(slots)
    with pytest.raises(AssertionError, match="given back twice"):
        pool.give(slots)


def test_rows_go_out_lowest_first_and_come_back_once() -> None:
    rows = RowPool(3)
    assert [rows.take(), rows.take()] == [0, 1]
    assert (rows.free, rows.used) == (1, 2)
    rows.give(0)
    with pytest.raises(AssertionError, match="given back twice"):
        rows.give(0)
    assert [rows.take(), rows.take()] == [0, 2]
    with pytest.raises(IndexError):
        rows.take()
