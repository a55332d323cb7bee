# SPDX-License-Identifier: Apache-2.0
"""The residual stream is carried, not copied; the pool is shaped by the specs."""

from __future__ import annotations

import torch

from sgl_runtime.layers import AttentionSpec, Build, KVPool, RMSNorm
from sgl_runtime.layers.kv import bytes_per_slot
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.quantization import resolve

CPU = torch.device("cpu")


def test_norm_adds_what_the_last_block_did_to_the_residual() -> None:
    build = Build(
        config=None,  # type: ignore[arg-type]  # a norm is told its size
        tp=TensorParallel.alone(),
        quantization=resolve({}),
        dtype=torch.float32,
        device=CPU,
        context_length=1,
    )
    norm = RMSNorm(build, 8, 1e-5)
    weight = torch.randn(8)
    norm.weight.load(weight)
    with torch.inference_mode():
        first, added = torch.randn(3, 8), torch.randn(3, 8)
        x, residual = norm(first, None)
        torch.testing.assert_close(x, torch.nn.functional.rms_norm(first, (8,), weight, 1e-5))
        assert residual is first
        expected = first + added
        x, residual = norm(added, residual)
        torch.testing.assert_close(residual, expected)
        torch.testing.assert_close(x, torch.nn.functional.rms_norm(expected, (8,), weight, 1e-5))
        assert residual is first, "one buffer carries the stream through all layers"


def test_the_pool_holds_what_the_specs_say() -> None:
    specs = [AttentionSpec(4, 2, 8, 8, 1.0), AttentionSpec(4, 1, 16, 12, 1.0)]
    pool = KVPool(specs, 5, torch.bfloat16, CPU)
    shapes = [[tuple(cache.shape) for cache in pool[layer]] for layer in range(2)]
    assert shapes == [[(5, 2, 8), (5, 2, 8)], [(5, 1, 16), (5, 1, 12)]]
    size = sum(cache.nbytes for layer in range(2) for cache in pool[layer])
    assert size == 5 * bytes_per_slot(specs, torch.bfloat16)


def test_the_values_of_a_latent_spec_are_its_keys() -> None:
    specs = [AttentionSpec(4, 1, 16, 12, 1.0, latent=True)]
    pool = KVPool(specs, 5, torch.bfloat16, CPU)
    keys, values = pool[0]
    assert keys.shape == (5, 1, 16)
    assert values.shape == (5, 1, 12)
    assert values.data_ptr() == keys.data_ptr()
    assert keys.nbytes == 5 * bytes_per_slot(specs, torch.bfloat16)
