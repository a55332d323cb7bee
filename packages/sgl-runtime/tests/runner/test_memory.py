# SPDX-License-Identifier: Apache-2.0
"""How much room there is, and that every refusal names a value that then works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.runner.memory import Memory, Room, free_memory, make_room, read_memory

GIB = 2**30


def room(
    memory: Memory, kind: str = "cpu", neighbours: int = 1, slot_bytes: int = 20_000, **config: Any
) -> Room:
    context_length = config.get("context_length", 8192)
    return make_room(
        ServeConfig(**config),
        memory,
        kind=kind,
        context_length=context_length,
        slot_bytes=slot_bytes,
        neighbours=neighbours,
    )


def test_a_cpu_gives_a_fifth_of_what_is_free() -> None:
    found = room(Memory(20 * GIB, 64 * GIB))
    assert 0.19 < found.slots * 20_000 / (20 * GIB) <= 0.2
    assert found.width == 8192


def test_no_more_than_can_be_used() -> None:
    found = room(Memory(20 * GIB, 64 * GIB), max_running_requests=2, context_length=1000)
    assert found == Room(slots=2000, rows=2, width=1000)


def test_cuda_leaves_its_share_free() -> None:
    found = room(Memory(70 * GIB, 80 * GIB), kind="cuda")
    used = found.slots * 20_000 + found.rows * found.width * 4 + 10 * GIB
    assert 0.875 * 80 * GIB < used <= 0.88 * 80 * GIB


def test_the_fraction_is_of_the_whole_memory_with_the_weights() -> None:
    found = room(Memory(30 * GIB, 40 * GIB), kind="cuda", mem_fraction_static=0.5, max_running_requests=1)
    assert found == Room(slots=8192, rows=1, width=8192)
    found = room(Memory(30 * GIB, 40 * GIB), kind="cuda", mem_fraction_static=0.5)
    assert 9.9 * GIB < found.slots * 20_000 + found.rows * found.width * 4 <= 10 * GIB


@pytest.mark.parametrize("asked", [{}, {"max_total_tokens": 5000}])
def test_more_requests_than_there_is_memory_for_are_refused_with_a_number_that_fits(
    asked: dict[str, int],
) -> None:
    memory = Memory(20 * GIB, 64 * GIB)
    with pytest.raises(ConfigError) as caught:
        room(memory, neighbours=2, max_running_requests=10**9, **asked)
    (most,) = map(int, re.findall(r"use --max-running-requests (\d+)", caught.value.message))
    assert room(memory, neighbours=2, max_running_requests=most, **asked).slots >= 1024


def test_neighbours_share() -> None:
    assert room(Memory(20 * GIB, 64 * GIB), neighbours=4).slots <= room(Memory(5 * GIB, 64 * GIB)).slots


def test_what_is_asked_for_is_given() -> None:
    assert room(Memory(20 * GIB, 64 * GIB), max_total_tokens=100) == Room(slots=100, rows=100, width=100)


@settings(deadline=None)
@given(
    free=st.integers(1, 100_000_000),
    asked=st.integers(1, 10_000),
    slot_bytes=st.integers(1, 300_000),
    neighbours=st.integers(1, 3),
)
def test_a_pool_that_is_too_large_is_refused_with_one_that_fits(
    free: int, asked: int, slot_bytes: int, neighbours: int
) -> None:
    settings: dict[str, Any] = {"slot_bytes": slot_bytes, "neighbours": neighbours, "max_running_requests": 1}
    memory = Memory(free, 10 * free)
    try:
        found = room(memory, max_total_tokens=asked, **settings)
    except ConfigError as error:
        match = re.search(r"at most (\d+)", error.message)
        if match is None:
            assert "no memory is left" in error.message
            return
        found = room(memory, max_total_tokens=int(match[1]), **settings)
        with pytest.raises(ConfigError):
            room(memory, max_total_tokens=int(match[1]) + 1, **settings)
    assert found.slots * slot_bytes * neighbours <= free


@settings(deadline=None)
@given(
    total=st.integers(10**6, 10**11),
    part=st.floats(0, 1),
    asked=st.floats(0.01, 1),
    slot_bytes=st.integers(1, 10**6),
    kind=st.sampled_from(["cpu", "cuda"]),
)
def test_a_fraction_that_is_too_small_is_refused_with_one_that_works(
    total: int, part: float, asked: float, slot_bytes: int, kind: str
) -> None:
    memory = Memory(int(total * part), total)
    settings: dict[str, Any] = {"kind": kind, "slot_bytes": slot_bytes, "max_running_requests": 2}
    try:
        found = room(memory, mem_fraction_static=asked, **settings)
    except ConfigError as error:
        match = re.search(r"--mem-fraction-static ([0-9.]+)", error.message)
        if match is None:
            assert "smaller model" in error.message
            return
        found = room(memory, mem_fraction_static=float(match[1]), **settings)
    assert found.slots >= 1
    assert found.slots * slot_bytes <= memory.free


def test_free_memory_of_this_computer() -> None:
    memory = free_memory(torch.device("cpu"))
    assert 0 < memory.free <= memory.total


def test_a_control_group_s_limit_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000 kB\nMemFree:  10 kB\nMemAvailable:   6000 kB\nHugePages_Total:  0\n")
    group = tmp_path / "group"
    group.mkdir()
    host = Memory(6000 * 1024, 8000 * 1024)
    assert read_memory(meminfo, group) == host
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("3000\n")
    assert read_memory(meminfo, group) == host
    (group / "memory.max").write_text("5000\n")
    assert read_memory(meminfo, group) == Memory(2000, 5000)
    (group / "memory.stat").write_text("anon 1\nactive_file 7\ninactive_file 500\n")
    assert read_memory(meminfo, group) == Memory(2500, 5000)


def test_a_computer_that_does_not_say_what_is_free(tmp_path: Path) -> None:
    memory = read_memory(tmp_path / "absent", tmp_path)
    assert 0 < memory.free < memory.total
