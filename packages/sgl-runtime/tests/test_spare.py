# SPDX-License-Identifier: Apache-2.0
"""What is free goes back to the system, and what was there at the start is not looked through again."""

from __future__ import annotations

import gc
import platform
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sgl_runtime.spare import give_back, settle


def _resident() -> int:
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's allocator")
def test_free_memory_between_pieces_that_live_goes_back() -> None:
    pieces = [np.ones(64 << 10, np.uint8) for _ in range(2000)]  # 125 MiB, too small to be mapped one by one
    between = pieces[::100]
    del pieces
    before = _resident()
    give_back()
    assert before - _resident() > 60 << 20
    assert all(piece.all() for piece in between)


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def settled() -> Iterator[None]:
    before = gc.get_threshold()
    settle()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.usefixtures("settled")
def test_what_was_there_is_set_apart_and_full_collections_are_put_off() -> None:
    assert gc.get_freeze_count() > 10_000 > len(gc.get_objects(generation=2))
    assert gc.get_threshold()[2] > 100


@pytest.mark.usefixtures("settled")
def test_cycles_are_collected_at_rest_when_there_may_be_many() -> None:
    lost = weakref.ref(cycle := _Cycle())
    gc.collect(0)
    gc.collect(1)  # it is in the oldest generation now
    del cycle
    give_back()
    assert lost() is not None, "hardly anything was made since the last time"
    for _ in range(10):
        gc.collect(1)
    give_back()
    assert lost() is None
