# SPDX-License-Identifier: Apache-2.0
"""Row-wise operations in a function that torch.compile takes as one graph: same results, no break."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import sgl_kernels as ops
from sgl_kernels import Availability, _backend


def layer(x: Tensor, residual: Tensor, weight: Tensor, angles: Tensor, slots: Tensor) -> tuple[Tensor, ...]:
    """Everything that stands around the products of a layer; T = 3, width 32, 2 + 1 + 1 heads of 8."""
    x = ops.fused_add_rms_norm(x, residual, weight, 1e-5) + ops.layer_norm(x, weight, weight, 1e-5)
    x = x + ops.gemma_rms_norm(x, weight, 1e-5) + ops.fused_add_gemma_rms_norm(x, residual, weight, 1e-5)
    heads = x.view(3, 4, 8)
    q, k, v = heads[:, :2], heads[:, 2:3], heads[:, 3:]
    caches = [torch.zeros(6, 1, 8) for _ in range(4)]
    ops.apply_rope(q, k, *angles, positions=slots)
    ops.store_kv(k, v, *caches[:2], slots)
    ops.rope_and_store_kv(
        q, k, v, *angles, *caches[2:], slots, positions=slots, q_weight=weight[:8], k_weight=weight[:8]
    )
    ops.copy_kv(*caches[:2], slots[:1], slots[:1] + 1)
    gathered = ops.gather_kv(*caches[:2], slots)
    layout = ops.gather_slots(slots[None].int(), slots[:1] * 0, slots[:1].int(), 4)
    return ops.silu_and_mul(x) + ops.gelu_and_mul(x), *caches, *gathered, *layout


def logits(values: Tensor, counts: Tensor, words: Tensor, tokens: Tensor) -> Tensor:
    values = values.clone()
    ones = torch.ones(2)
    strengths = {"frequency": ones, "presence": ones, "repetition": ones * 2}
    ops.count_tokens(counts, tokens)
    ops.apply_penalties(values, counts, counts > 3, **strengths)
    ops.apply_penalties(values, counts, counts > 3, **strengths, rows=tokens - 1, counted=tokens - 1)
    ops.apply_token_bitmask(values, words)
    ops.apply_token_bitmask(values, words, tokens - 1)
    return values


def test_a_layer_is_one_graph() -> None:
    frequencies, _ = ops.rope_frequencies(8, 100.0, None, 8)
    arguments = (torch.randn(3, 32), torch.randn(3, 32), torch.randn(32))
    more = (torch.stack(ops.rope_table(frequencies, 1.0, 8)), torch.tensor([4, -1, 2]))
    expected = layer(*(x.clone() for x in arguments), *more)
    found = torch.compile(layer, fullgraph=True, backend="eager")(*(x.clone() for x in arguments), *more)
    for ours, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, plain)


def test_a_compiled_function_gets_the_reference_on_cuda_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor taken for one on CUDA: a call would end in a kernel of Triton, a trace must not."""

    def fast(operation: str, device: torch.device) -> ModuleType | None:
        return _backend.fast(operation, torch.device("cuda"))

    monkeypatch.setattr(_backend, "available", lambda: {"triton": Availability(True, "")})
    monkeypatch.setattr("sgl_kernels.norm.fast", fast)
    _backend._kernels.cache_clear()
    x, weight = torch.randn(2, 16), torch.ones(16)
    compiled = torch.compile(lambda: ops.rms_norm(x, weight, 1e-6), fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(), F.rms_norm(x, [16], weight, 1e-6))
    _backend._kernels.cache_clear()


def test_logits_are_one_graph() -> None:
    arguments = (torch.randn(2, 70), torch.randint(5, (2, 70)), torch.randint(1 << 31, (2, 3)).int())
    tokens = torch.tensor([2, 0])
    expected = logits(arguments[0], arguments[1].clone(), arguments[2], tokens)
    compiled = torch.compile(logits, fullgraph=True, backend="eager")
    assert torch.equal(compiled(arguments[0], arguments[1].clone(), arguments[2], tokens), expected)
