# SPDX-License-Identifier: Apache-2.0
"""Writing into the cache against a loop."""

from __future__ import annotations

import pytest
import torch

from sgl_kernels import store_kv


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("slots", [[5], [9, 0, 4, 2], list(range(3, 9)), []])
def test_store_kv(slots: list[int], index: torch.dtype) -> None:
    qkv = torch.randn(len(slots), 10, 8)
    k, v = qkv[:, 4:7], qkv[:, 7:, :5]  # strided; values may be narrower
    k_cache, v_cache = torch.zeros(12, 3, 8), torch.zeros(12, 3, 5)
    store_kv(k, v, k_cache, v_cache, torch.tensor(slots, dtype=index))
    for slot in range(12):
        if slot in slots:
            assert torch.equal(k_cache[slot], k[slots.index(slot)])
            assert torch.equal(v_cache[slot], v[slots.index(slot)])
        else:
            assert not k_cache[slot].any()
            assert not v_cache[slot].any()
