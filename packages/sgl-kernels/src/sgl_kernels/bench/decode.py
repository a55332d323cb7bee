# SPDX-License-Identifier: Apache-2.0
"""Attention of one query a request over a paged cache whose slots are in random order, page size one.

FlashInfer decodes both with tensor cores and without. Checked on a sample of the requests, against float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from sgl_kernels import AttentionSpec, PagedLayout, SharedPrefix, available, load_attention
from sgl_kernels._check import FLOAT8
from sgl_kernels.bench.harness import Call, Case, Prepared, relative_error

_LLAMA = AttentionSpec(32, 8, 128, 128, 128**-0.5)
_LATENT = AttentionSpec(16, 1, 576, 512, 192**-0.5)
_SIZES = {
    1: (128, 512, 2048, 8192, 32768),
    8: (128, 512, 2048, 8192, 32768),
    64: (128, 512, 2048, 8192, 32768),
    256: (128, 512, 2048, 8192),
}
_SAMPLE = 8  # requests that are checked


def cases() -> Iterator[Case]:
    for rows, contexts in _SIZES.items():
        for length in contexts:
            goal = 0.92 if (rows, length) == (64, 2048) else None
            yield _case("decode", _LLAMA, [length] * rows, goal=goal)
    ragged = [128 * (1 + i * 37 % 64) for i in range(64)]
    yield _case("decode", _LLAMA, ragged, size="64 x 128 to 8192")
    yield _case("decode, window 1024, soft-cap", replace(_LLAMA, window=1024, softcap=50.0), [8192] * 64)
    for kind in FLOAT8:
        yield _case(f"decode, {str(kind).removeprefix('torch.')}", _LLAMA, [2048] * 64, kind=kind)
    for rows, length in ((1, 8192), (64, 2048)):
        yield _case("decode, latent, 16 heads", _LATENT, [length] * rows)
    yield _case("decode, latent, 128 heads", replace(_LATENT, q_heads=128), [2048] * 64)
    yield _case("decode, shared prefix", _LLAMA, [2048 + 64] * 1024, groups=32, prefix=2048)


def _case(
    operation: str,
    spec: AttentionSpec,
    lengths: Sequence[int],
    *,
    kind: torch.dtype = torch.bfloat16,
    groups: int = 0,
    prefix: int = 0,
    size: str | None = None,
    goal: float | None = None,
) -> Case:
    rows, tokens = len(lengths), sum(lengths)
    size = size or (f"{rows} in {groups} groups of {prefix}" if groups else f"{rows} x {lengths[0]}")
    seen = sum(min(length, spec.window or length) for length in lengths) - (rows - groups) * prefix
    latent = spec.v_dim < spec.head_dim
    width = spec.head_dim if latent else spec.head_dim + spec.v_dim
    moved = (
        seen * spec.kv_heads * width * kind.itemsize + rows * spec.q_heads * (spec.head_dim + spec.v_dim) * 2
    )
    flops = 2 * tokens * spec.q_heads * (spec.head_dim + spec.v_dim) if latent or groups else 0

    def prepare() -> Prepared:
        slots = torch.randperm(tokens, device="cuda", dtype=torch.int32)
        shared = tuple(SharedPrefix(g * rows // groups, rows // groups, prefix) for g in range(groups))
        if groups:
            each = slots.view(groups, rows // groups, lengths[0])
            each[:, :, :prefix] = each[:, :1, :prefix].clone()
        layout = PagedLayout(slots, (1,) * rows, tuple(lengths), shared=shared)
        q = torch.randn(rows, spec.q_heads, spec.head_dim, device="cuda").bfloat16()
        k = _random(tokens, spec.kv_heads, spec.head_dim, kind)
        v = k[..., : spec.v_dim] if latent else _random(tokens, spec.kv_heads, spec.v_dim, kind)
        work = _Work(spec, layout, q, k, v)
        others: dict[str, Call] = {"plain": work.bind(replace(layout, shared=()))} if groups else {}
        if kind == torch.bfloat16 and not latent and available()["flashinfer"].usable:
            others |= {f"flashinfer{' tc' if tc else ''}": work.bind_flashinfer(tc) for tc in (False, True)}
        ours = work.bind(layout)
        return Prepared(ours, others, lambda: work.error(ours()))

    return Case(operation, size, prepare, bytes=moved, flops=flops, goal=goal)


@dataclass(frozen=True)
class _Work:
    spec: AttentionSpec
    layout: PagedLayout
    q: Tensor
    k: Tensor
    v: Tensor

    def bind(self, layout: PagedLayout) -> Call:
        backend = load_attention("triton", [self.spec], self.q.device)
        plan = backend.plan(layout, self.spec)
        return lambda: backend.run(plan, self.q, self.k, self.v)

    def bind_flashinfer(self, tensor_cores: bool) -> Call:
        flashinfer: Any = import_module("flashinfer")
        spec = self.spec
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            _workspace(), "NHD", use_tensor_cores=tensor_cores
        )
        wrapper.plan(
            _indptr(self.layout.kv_lens),
            self.layout.kv_slots,
            torch.ones(len(self.layout.kv_lens), dtype=torch.int32, device="cuda"),
            spec.q_heads,
            spec.kv_heads,
            spec.head_dim,
            1,
            window_left=-1 if spec.window is None else spec.window - 1,
            logits_soft_cap=spec.softcap,
            q_data_type=self.q.dtype,
            kv_data_type=self.k.dtype,
            sm_scale=spec.scale,
        )
        pages = self.k[:, None], self.v[:, None]
        return lambda: wrapper.run(self.q, pages)

    def error(self, out: Tensor) -> float:
        """Of a sample of the requests, against float64."""
        rows = sorted({round(i * (len(self.q) - 1) / (_SAMPLE - 1)) for i in range(_SAMPLE)})
        starts = list(accumulate(self.layout.kv_lens, initial=0))
        expected = torch.stack([self._exact(r, starts[r], starts[r + 1]) for r in rows])
        return relative_error(out[rows], expected)

    def _exact(self, row: int, begin: int, end: int) -> Tensor:
        spec = self.spec
        own = self.layout.kv_slots[max(begin, end - (spec.window or end)) : end].long()
        k, v = self.k[own].double(), self.v[own].double()
        q = self.q[row].double().view(spec.kv_heads, -1, spec.head_dim)
        scores = torch.einsum("hgd,nhd->hgn", q, k) * spec.scale
        if spec.softcap is not None:
            scores = spec.softcap * torch.tanh(scores / spec.softcap)
        return torch.einsum("hgn,nhd->hgd", scores.softmax(-1), v).reshape(spec.q_heads, spec.v_dim)


@cache
def _workspace() -> Tensor:
    return torch.empty(512 << 20, dtype=torch.uint8, device="cuda")


def _indptr(lengths: Sequence[int]) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)), dtype=torch.int32, device="cuda")


def _random(tokens: int, heads: int, width: int, kind: torch.dtype) -> Tensor:
    """Made part by part: float32 for all of it may not fit."""
    x = torch.empty(tokens, heads, width, dtype=kind, device="cuda")
    for part in x.split(1 << 18):
        part.copy_(torch.randn(part.shape, device="cuda"))
    return x
