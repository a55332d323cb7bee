# SPDX-License-Identifier: Apache-2.0
"""Rows of the paged cache: 8 heads of 128, keys and values; and the slots of a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sgl_kernels import copy_kv, gather_kv, gather_slots, store_kv
from sgl_kernels.bench.harness import Case, Prepared, poison, relative_error

_SHAPE, _SLOTS = (8, 128), 1 << 17
_ROW = 2 * 8 * 128  # elements of a token
_Pair = tuple[Tensor, Tensor]


def cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        caches = _cache(dtype), _cache(dtype)
        name: str = "bf16"
        scales: dict[str, Any] = {}
        if dtype != torch.bfloat16:
            name, scales = "e4m3", {"k_scale": 0.02, "v_scale": 0.02}
        for tokens in (1, 1024, 8192):
            moved = tokens * _ROW * (2 + dtype.itemsize)
            goal = 0.85 if moved >= 8 << 20 else None

            def store(
                tokens: int = tokens, caches: _Pair = caches, scales: dict[str, Any] = scales
            ) -> Prepared:
                k, v, slots = _inputs(tokens)

                def check() -> float:
                    store_kv(k, v, *caches, slots, **scales)
                    keys, values = gather_kv(*caches, slots, **scales)
                    assert values is not None
                    return max(relative_error(keys, k), relative_error(values, v))

                return Prepared(lambda: store_kv(k, v, *caches, slots, **scales), {}, check)

            yield Case(f"store_kv {name}", f"{tokens} tokens", store, bytes=moved, limit=3e-2, goal=goal)

            def gather(
                tokens: int = tokens, caches: _Pair = caches, scales: dict[str, Any] = scales
            ) -> Prepared:
                slots = torch.randperm(_SLOTS, device="cuda")[:tokens]
                return Prepared(lambda: gather_kv(*caches, slots, **scales))

            if tokens >= 1024:
                yield Case(f"gather_kv {name}", f"{tokens} tokens", gather, bytes=moved, goal=goal)

        def copy(caches: _Pair = caches) -> Prepared:
            source, target = torch.randperm(_SLOTS, device="cuda")[:16384].chunk(2)

            def check() -> float:
                caches[0].view(torch.uint8).random_(0, 100)
                before = caches[0][source].float()
                copy_kv(*caches, source, target)
                return relative_error(caches[0][target].float(), before)

            return Prepared(lambda: copy_kv(*caches, source, target), {}, check)

        moved = 8192 * _ROW * 2 * dtype.itemsize
        yield Case(f"copy_kv {name}", "8192 tokens", copy, bytes=moved, limit=0.0, goal=0.85)
    yield from _slots_cases()


def _slots_cases() -> Iterator[Case]:
    for name, lens in (
        ("64 x 2048", [2048] * 64),
        ("1 x 32768", [32768]),
        ("255 x 128 and 8192", [128] * 255 + [8192]),
        ("1024 x 2048", [2048] * 1024),
    ):
        total = sum(lens)

        def prepare(lens: list[int] = lens, total: int = total) -> Prepared:
            table = torch.randint(_SLOTS, (len(lens), max(lens)), dtype=torch.int32, device="cuda")
            rows = torch.randperm(len(lens), device="cuda")
            on_device = torch.tensor(lens, dtype=torch.int32, device="cuda")
            out = on_device.new_empty(len(lens) + 1), table.new_empty(total)

            def check() -> float:
                poison(out[1])
                gather_slots(table, rows, on_device, total, out=out)
                expected = torch.cat([table[row, :n] for row, n in zip(rows.tolist(), lens, strict=True)])
                return relative_error(out[1], expected)

            return Prepared(lambda: gather_slots(table, rows, on_device, total, out=out), {}, check)

        yield Case("gather_slots", name, prepare, bytes=8 * total, limit=0.0)


def _cache(dtype: torch.dtype) -> Tensor:
    return torch.zeros(_SLOTS, *_SHAPE, device="cuda").to(dtype)


def _inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """(k, v, slots); k and v are views of one projection with 32 heads of queries."""
    heads = torch.randn(tokens, 48, 128, device="cuda").bfloat16()
    return heads[:, 32:40], heads[:, 40:], torch.randperm(_SLOTS, device="cuda")[:tokens]
