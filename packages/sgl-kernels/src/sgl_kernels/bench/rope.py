# SPDX-License-Identifier: Apache-2.0
"""Rotation, alone and with the norm of heads and the way into the cache, at the heads of Llama-3.1-8B."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sgl_kernels import (
    apply_rope,
    available,
    gather_kv,
    rms_norm,
    rope_and_store_kv,
    rope_frequencies,
    rope_table,
    store_kv,
)
from sgl_kernels.bench.harness import Call, Case, Prepared, relative_error

_Q, _K, _DIM, _LENGTH, _SLOTS = 32, 8, 128, 8192, 1 << 16
_FP8 = torch.float8_e4m3fn
_Pair = tuple[Tensor, Tensor]


def cases() -> Iterator[Case]:
    frequencies, factor = rope_frequencies(_DIM, 500000.0, None, _LENGTH)
    cos, sin = rope_table(frequencies, factor, _LENGTH)
    table = cos.cuda(), sin.cuda()
    caches = {dtype: (_cache(dtype), _cache(dtype)) for dtype in (torch.bfloat16, _FP8)}
    theirs = _flashinfer(frequencies)
    for tokens in (1, 1024, 8192):
        angles = 4 * tokens * _DIM  # half of each row of the two tables, float32
        heads = 4 * tokens * (_Q + _K) * _DIM
        goal = 0.85 if heads >= 8 << 20 else None

        def alone(tokens: int = tokens) -> Prepared:
            q, k, _, positions, _ = _inputs(tokens)

            def check() -> float:
                expected = torch.cat([_turned(x, table, positions) for x in (q, k)], 1)
                apply_rope(q, k, *table, positions=positions)
                return relative_error(torch.cat((q, k), 1), expected)

            def ours() -> None:
                apply_rope(q, k, *table, positions=positions)

            return Prepared(ours, theirs(q, k, positions), check)

        yield Case("apply_rope", f"{tokens} tokens", alone, bytes=heads + angles, goal=goal)
        for cached in caches:
            for normed in (False, True):
                prepare = _fused(tokens, caches[cached], normed, table)
                moved = 2 * tokens * (2 * _Q + 2 * _K) * _DIM + 2 * tokens * _K * _DIM * cached.itemsize
                name = f"{'norm, ' if normed else ''}rope, store {'e4m3' if cached == _FP8 else 'bf16'}"
                yield Case(name, f"{tokens} tokens", prepare, bytes=moved + angles, limit=3e-2, goal=goal)


def _fused(tokens: int, caches: _Pair, normed: bool, table: _Pair) -> Callable[[], Prepared]:
    (cos, sin), (k_cache, v_cache) = table, caches
    fp8 = caches[0].dtype == _FP8
    scales: dict[str, Any] = {"k_scale": 0.02, "v_scale": 0.02} if fp8 else {}

    def prepare() -> Prepared:
        q, k, v, positions, slots = _inputs(tokens)
        weights = torch.rand(2, _DIM, device="cuda").bfloat16() + 0.5
        norms: dict[str, Any] = {"q_weight": weights[0], "k_weight": weights[1]} if normed else {}

        def ours() -> None:
            rope_and_store_kv(
                q, k, v, cos, sin, k_cache, v_cache, slots, positions=positions, **norms, **scales
            )

        def apart() -> None:
            """Each step by its own kernel, the norms into fresh memory."""
            queries, keys = q, k
            if normed:
                queries, keys = rms_norm(q, weights[0], 1e-6), rms_norm(k, weights[1], 1e-6)
            apply_rope(queries, keys, cos, sin, positions=positions)
            store_kv(keys, v, k_cache, v_cache, slots, **scales)

        def check() -> float:
            expected = [x.double() for x in (q, k)]
            if normed:
                expected = [
                    x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * w.double()
                    for x, w in zip(expected, weights, strict=True)
                ]
            expected = [_turned(x, table, positions) for x in expected]
            ours()
            keys, values = gather_kv(k_cache, v_cache, slots, **scales)
            assert values is not None
            stored = max(relative_error(keys, expected[1]), relative_error(values, v))
            return max(relative_error(q, expected[0]), stored)

        return Prepared(ours, {"apart": apart}, check)

    return prepare


def _cache(dtype: torch.dtype) -> Tensor:
    return torch.zeros(_SLOTS, _K, _DIM, device="cuda").to(dtype)


def _inputs(tokens: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(q, k, v, positions, slots): views of one projection."""
    heads = torch.randn(tokens, _Q + 2 * _K, _DIM, device="cuda").bfloat16()
    positions = torch.randint(_LENGTH, (tokens,), device="cuda")
    q, k, v = heads.split([_Q, _K, _K], 1)
    return q, k, v, positions, torch.randperm(_SLOTS, device="cuda")[:tokens]


def _turned(x: Tensor, table: _Pair, positions: Tensor) -> Tensor:
    cos, sin = (part[positions].double()[:, None] for part in table)
    return x.double() * cos + x.double().roll(_DIM // 2, -1) * sin


def _flashinfer(frequencies: Tensor) -> Callable[[Tensor, Tensor, Tensor], Mapping[str, Call]]:
    """FlashInfer's rotation in place, where it is installed; its table is [cos | sin] of half the width."""
    if not available()["flashinfer"].usable:
        return lambda q, k, positions: {}
    flashinfer: Any = import_module("flashinfer")
    angles = torch.outer(torch.arange(_LENGTH).float(), frequencies)
    table = torch.cat((angles.cos(), angles.sin()), -1).cuda()

    def bind(q: Tensor, k: Tensor, positions: Tensor) -> Mapping[str, Call]:
        q, k = q.reshape(len(q), -1), k.reshape(len(k), -1)
        rotate = flashinfer.apply_rope_with_cos_sin_cache_inplace
        return {"flashinfer": lambda: rotate(positions, q, k, _DIM, table, is_neox=True)}

    return bind
