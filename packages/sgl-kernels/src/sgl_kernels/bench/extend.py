# SPDX-License-Identifier: Apache-2.0
"""Prompts over keys and values in slots, at random if not said otherwise.

Beside FlashInfer on the same slots, and beside cuDNN and FlashAttention-2 of torch, which know no slots and
get keys and values side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sgl_kernels import AttentionSpec, PagedLayout, available, gather_kv, load_attention
from sgl_kernels.bench.harness import Call, Case, Prepared, relative_error

_LLAMA = AttentionSpec(32, 8, 128, 128, 128**-0.5)
_GEMMA = AttentionSpec(16, 8, 256, 256, 256**-0.5, window=1024, softcap=50.0)
_LATENT = AttentionSpec(16, 1, 576, 512, 192**-0.5)
_DENSE: dict[str, SDPBackend] = {
    "cuDNN, side by side": SDPBackend.CUDNN_ATTENTION,
    "torch flash": SDPBackend.FLASH_ATTENTION,
}
_CHECKED = 512  # queries at a time

_Lens = list[tuple[int, int]]  # queries and tokens of each request


def cases() -> Iterator[Case]:
    float8 = torch.float8_e4m3fn
    yield _case("8 x 2,048", _LLAMA, [(2048, 2048)] * 8)
    yield _case("8 x 2,048, slots in a row", _LLAMA, [(2048, 2048)] * 8, in_a_row=True)
    yield _case("2 x 16,384", _LLAMA, [(16384, 16384)] * 2)
    yield _case("2 x 16,384, slots in a row", _LLAMA, [(16384, 16384)] * 2, in_a_row=True)
    yield _case("4 x 2,048 after 8,192", _LLAMA, [(2048, 10240)] * 4)
    yield _case("32 x 64 after 4,096", _LLAMA, [(64, 4160)] * 32)
    yield _case("64 x 8 after 2,048", _LLAMA, [(8, 2056)] * 64)
    yield _case("1 x 16 after 32,768", _LLAMA, [(16, 32784)])
    yield _case("4 x 8 after 8,192", _LLAMA, [(8, 8200)] * 4)
    yield _case("100 to 4,000", _LLAMA, [(100 + 300 * i, 100 + 300 * i) for i in range(14)])
    yield _case("8 x 2,048, e4m3", _LLAMA, [(2048, 2048)] * 8, float8)
    yield _case("8 x 2,048, window, soft cap, 256", _GEMMA, [(2048, 2048)] * 8)
    yield _case("4 x 2,048, latent 576/512", _LATENT, [(2048, 2048)] * 4)


def _case(
    size: str,
    spec: AttentionSpec,
    lens: _Lens,
    stored: torch.dtype = torch.bfloat16,
    *,
    in_a_row: bool = False,
) -> Case:
    queries, tokens = (sum(part) for part in zip(*lens, strict=True))
    reach = spec.window or 1 << 62
    pairs = sum(min(position + 1, reach) for q, kv in lens for position in range(kv - q, kv))
    width = spec.head_dim + spec.v_dim
    width_stored = spec.head_dim if spec is _LATENT else width
    moved = 2 * queries * spec.q_heads * width + stored.itemsize * tokens * spec.kv_heads * width_stored
    return Case(
        "extend",
        size,
        lambda: _prepare(spec, lens, stored, in_a_row),
        bytes=moved,
        flops=2 * pairs * spec.q_heads * width,
        limit=1e-2,
    )


def _prepare(spec: AttentionSpec, lens: _Lens, stored: torch.dtype, in_a_row: bool) -> Prepared:
    layout = _layout(lens, in_a_row)
    q = torch.randn(sum(layout.q_lens), spec.q_heads, spec.head_dim, device="cuda").bfloat16()
    slots = len(layout.kv_slots) + 64
    k = torch.randn(slots, spec.kv_heads, spec.head_dim, device="cuda").to(stored)
    v = k[..., : spec.v_dim]
    if spec is not _LATENT:
        v = torch.randn(slots, spec.kv_heads, spec.v_dim, device="cuda").to(stored)
    backend = load_attention("triton", [spec], q.device)
    plan = backend.plan(layout, spec)

    def ours() -> Tensor:
        return backend.run(plan, q, k, v)

    return Prepared(
        ours, _others(spec, layout, q, k, v), lambda: relative_error(ours(), _exact(spec, layout, q, k, v))
    )


def _indptr(lens: tuple[int, ...]) -> Tensor:
    return torch.tensor(list(accumulate(lens, initial=0)), dtype=torch.int32)


def _layout(lens: _Lens, in_a_row: bool) -> PagedLayout:
    q_lens, kv_lens = (tuple(part) for part in zip(*lens, strict=True))
    tokens = sum(kv_lens)
    order = torch.arange if in_a_row else torch.randperm
    slots = order(tokens + 64, device="cuda")[:tokens].int()
    return PagedLayout(slots, q_lens, kv_lens)


def _others(spec: AttentionSpec, layout: PagedLayout, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Call]:
    calls: dict[str, Call] = {}
    plain = spec == _LLAMA and k.dtype == q.dtype
    if (
        available()["flashinfer"].usable and plain
    ):  # of every other kind it would have to compile more kernels
        for version in ("fa2", "fa3"):
            calls[f"FlashInfer {version}"] = _flashinfer(version, spec, layout, q, k, v)
    same = len(set(layout.kv_lens)) == 1 and layout.q_lens == layout.kv_lens
    if same and plain:
        shape = (len(layout.q_lens), layout.q_lens[0])
        keys, values = gather_kv(k, v, layout.kv_slots)
        assert values is not None
        query, key, value = (x.unflatten(0, shape).transpose(1, 2) for x in (q, keys, values))
        for name, kind in _DENSE.items():

            def attend(kind: SDPBackend = kind) -> Tensor:
                with sdpa_kernel(kind):
                    return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

            calls[name] = attend
    return calls


def _flashinfer(kind: str, spec: AttentionSpec, layout: PagedLayout, q: Tensor, k: Tensor, v: Tensor) -> Call:
    @cache  # planned, and compiled, when it is first called
    def wrapper() -> Callable[..., Tensor]:
        flashinfer = import_module("flashinfer")
        workspace = torch.zeros(256 << 20, dtype=torch.uint8, device=q.device)
        planned = flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, "NHD", backend=kind)
        planned.plan(
            *(_indptr(lens) for lens in (layout.q_lens, layout.kv_lens)), layout.kv_slots,
            torch.ones(len(layout.q_lens), dtype=torch.int32), spec.q_heads, spec.kv_heads, spec.head_dim, 1,
            causal=True, sm_scale=spec.scale, window_left=-1 if spec.window is None else spec.window - 1,
            logits_soft_cap=spec.softcap, q_data_type=q.dtype, kv_data_type=k.dtype,
        )  # fmt: skip
        run: Callable[..., Tensor] = planned.run
        return run

    return lambda: wrapper()(q, (k.unsqueeze(1), v.unsqueeze(1)))


def _exact(spec: AttentionSpec, layout: PagedLayout, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """float64, some queries at a time."""
    out = torch.empty(q.shape[0], spec.q_heads, spec.v_dim, dtype=torch.float64, device=q.device)
    q_end = kv_end = 0
    for q_len, kv_len in zip(layout.q_lens, layout.kv_lens, strict=True):
        slots = layout.kv_slots[kv_end : kv_end + kv_len].long()
        keys, values = (x[slots].double().transpose(0, 1) for x in (k, v))  # [hk, tokens, dim]
        for start in range(0, q_len, _CHECKED):
            stop = min(start + _CHECKED, q_len)
            rows = slice(q_end + start, q_end + stop)
            high = kv_len - q_len + stop
            some = q[rows].double().unflatten(1, (spec.kv_heads, -1)).permute(1, 2, 0, 3)
            scores = some @ keys[:, None, :high].transpose(-1, -2) * spec.scale
            if spec.softcap is not None:
                scores = spec.softcap * (scores / spec.softcap).tanh()
            ahead = (
                torch.arange(high, device=q.device)
                - torch.arange(high - stop + start, high, device=q.device)[:, None]
            )
            hidden = ahead > 0 if spec.window is None else (ahead > 0) | (ahead <= -spec.window)
            weights = scores.masked_fill_(hidden, float("-inf")).softmax(-1)
            out[rows] = (weights @ values[:, None, :high]).permute(2, 0, 1, 3).flatten(1, 2)
        q_end, kv_end = q_end + q_len, kv_end + kv_len
    return out
