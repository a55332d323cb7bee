# SPDX-License-Identifier: Apache-2.0
"""How many KV slots and page-table rows fit beside the weights.

Arithmetic on byte counts; only `free_memory` asks the machine. Every refusal names a value that would work.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError

_CPU_ROWS, _CUDA_ROWS = 256, 1024  # requests at once, when nobody says
_CPU_SHARE = 0.2  # of the free memory of a computer that has other things to do
_CUDA_SHARE = 0.88  # of the whole memory of a device that has not, or less, if activations need more
_MEANT_TO_FIT = 1024  # tokens that a suggested memory fraction makes room for
_LARGEST_SUGGESTED = 0.98
_TABLE_ENTRY = 4  # bytes of one entry of the page table


@dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    free: int
    total: int


@dataclass(frozen=True)
class Spending:
    """Where the bytes of one device went."""

    total: int
    weights: int
    slots: int  # tokens
    slot_bytes: int
    reserve: int  # measured: what the largest step takes beside what stays
    graphs: int
    free: int  # of which the reserve is a part

    def table(self) -> str:
        """For a person: one line each."""
        rows = (
            ("weights", self.weights, ""),
            ("keys and values", self.slots * self.slot_bytes, f"{self.slots:,} tokens"),
            ("CUDA graphs", self.graphs, ""),
            ("free", self.free, f"the largest step takes {gib(self.reserve)}"),
            ("whole device", self.total, ""),
        )
        return "\n".join(f"  {name:<16}{gib(size):>12}  {note}".rstrip() for name, size, note in rows)


@dataclass(frozen=True)
class Room:
    """Sizes of the KV pool and the page table."""

    slots: int
    rows: int
    width: int  # of a row: tokens that one request can have


def free_memory(device: torch.device) -> Memory:
    """Memory of a device now; of a CPU, what can be had without swapping."""
    if device.type == "cuda":
        return Memory(*torch.cuda.mem_get_info(device))
    return read_memory(Path("/proc/meminfo"), Path("/sys/fs/cgroup"))


def make_room(
    config: ServeConfig,
    memory: Memory,
    *,
    kind: str,
    context_length: int,
    slot_bytes: int,
    neighbours: int,
    reserve: int = 0,
) -> Room:
    """What one rank gives to its pool and page table, of the `memory` that is left beside the weights.

    kind: "cpu" or "cuda". slot_bytes: of one token on this rank. neighbours: ranks that share this memory,
    this one included. reserve: bytes that a step needs for itself. Raises ConfigError if what is asked for,
    or a single token, does not fit.
    """
    usable = Memory(memory.free - reserve, memory.total)
    rows = rows_at_once(config, kind)
    table = rows * context_length * _TABLE_ENTRY
    share = _budget(config, memory, kind, reserve) // neighbours
    slots = min(max(0, share - table) // slot_bytes, rows * context_length)
    asked = config.max_total_tokens
    if asked is not None:
        share = usable.free // neighbours
        most = max(0, share - table) // slot_bytes
        if most and asked > most:
            raise ConfigError(
                f"--max-total-tokens {asked} needs {gib(asked * slot_bytes)} "
                f"and {gib(usable.free // neighbours)} is free: at most {most}",
                param="max_total_tokens",
            )
        slots = min(asked, most)
    if slots < 1:
        enough = (_MEANT_TO_FIT if asked is None else asked) * slot_bytes
        fewer = (share - enough) // (context_length * _TABLE_ENTRY)
        raise _too_small(memory, (table + enough) * neighbours, slot_bytes, reserve, fewer)
    return Room(slots=slots, rows=min(rows, slots), width=min(context_length, slots))


def rows_at_once(config: ServeConfig, kind: str) -> int:
    """Requests that may run at once, memory permitting."""
    if config.max_running_requests is not None:
        return config.max_running_requests
    return _CPU_ROWS if kind == "cpu" else _CUDA_ROWS


def _budget(config: ServeConfig, memory: Memory, kind: str, reserve: int) -> int:
    fraction = config.mem_fraction_static
    if fraction is None and kind == "cpu":
        return int(memory.free * _CPU_SHARE)
    # The fraction is of the whole memory and covers the weights, which are no longer free.
    left = int(memory.total * (1 - (_CUDA_SHARE if fraction is None else fraction)))
    if fraction is None:
        return memory.free - max(left, reserve)
    if left < reserve <= memory.free and reserve:
        largest = math.floor(100 * (1 - reserve / memory.total)) / 100
        raise ConfigError(
            f"--mem-fraction-static {fraction} leaves {gib(left)} beside weights and KV pool, and the "
            f"largest step takes {gib(reserve)}: use {largest:.2f}, or a smaller --max-prefill-tokens",
            param="mem_fraction_static",
        )
    return memory.free - left


def _too_small(memory: Memory, needed: int, slot_bytes: int, reserve: int, fewer: int) -> ConfigError:
    """fewer: so many requests at once would leave room, if any would."""
    fraction = math.ceil(100 * (1 - (memory.free - needed) / memory.total)) / 100
    fits = fraction <= min(_LARGEST_SUGGESTED, 1 - reserve / memory.total)
    remedy = "use a smaller model, --context-length, --max-running-requests or --max-prefill-tokens"
    if fits:
        remedy = f"use --mem-fraction-static {fraction:.2f}"
    elif fewer > 0:
        remedy = f"use --max-running-requests {fewer} or less, or a smaller --context-length"
    return ConfigError(
        f"no memory is left for keys and values, {slot_bytes} bytes a token: beside the weights, "
        f"{gib(memory.free)} of {gib(memory.total)} is free; {remedy}",
        param="mem_fraction_static",
    )


def gib(size: int) -> str:
    """A number of bytes for a sentence."""
    return f"{size / 2**30:.2f} GiB"


def read_memory(meminfo: Path, cgroup: Path) -> Memory:
    """What Linux says of a computer, within the limit of the control group (version 2) where there is one."""
    if not meminfo.is_file():
        # Not Linux: what is free cannot be asked portably, and half of the whole seldom hurts.
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return Memory(total // 2, total)
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    free, total = (int(fields[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    limit_file, used_file, details = (cgroup / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit_file.is_file() and used_file.is_file()) or limit_file.read_text().strip() == "max":
        return Memory(free, total)
    limit, used = int(limit_file.read_text()), int(used_file.read_text())
    if details.is_file():
        # Pages of files that nobody is using are given back when memory is asked for.
        used -= int(dict(line.split() for line in details.read_text().splitlines()).get("inactive_file", 0))
    return Memory(min(free, max(0, limit - used)), min(total, limit))
