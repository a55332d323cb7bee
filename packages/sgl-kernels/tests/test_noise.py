# SPDX-License-Identifier: Apache-2.0
"""The hash against plain integers, and whether its output looks independent and exponential."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sgl_kernels.noise import negative_exponential, row_keys, spread

M32, M64 = (1 << 32) - 1, (1 << 64) - 1


def mix64(x: int) -> int:
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & M64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & M64
    return x ^ x >> 31


def lowbias32(x: int) -> int:
    x = (x ^ x >> 16) * 0x7FEB352D & M32
    x = (x ^ x >> 15) * 0x846CA68B & M32
    return x ^ x >> 16


def variate(seed: int, step: int, token: int) -> float:
    key = mix64(mix64(seed) + (step + 1) * 0x9E3779B97F4A7C15 & M64)
    x = (lowbias32(token) ^ key & M32) * (key >> 32 | 1) & M32
    x = (x ^ x >> 16) * 0x846CA68B & 0x7FFFFFFF
    return -math.log1p(-(min(x, 2**31 - 128) + 0.5) / 2**31)


def exponential(seeds: list[int], steps: list[int], tokens: list[int]) -> np.ndarray:
    keys = torch.from_numpy(row_keys(np.array(seeds, np.int64), np.array(steps, np.int32)))
    return -negative_exponential(keys, spread(torch.tensor(tokens, dtype=torch.int32))).double().numpy()


def test_the_first_number_of_splitmix64() -> None:
    assert mix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # seed 0, as every implementation publishes it


def test_tensors_and_integers_agree() -> None:
    seeds, steps = [0, 1, 2**63 - 1, 42], [0, 7, 2**31 - 1, 100000]
    tokens = [0, 1, 2, 49151, 128255, 2**31 - 1]
    expected = [[variate(s, i, t) for t in tokens] for s, i in zip(seeds, steps, strict=True)]
    np.testing.assert_allclose(exponential(seeds, steps, tokens), expected, rtol=1e-5)


def test_the_largest_variate_is_finite() -> None:
    """A token whose last round ends in 31 ones, found by running the round backwards."""
    low, high = row_keys(np.array([9]), np.array([4], np.int32))[:, 0].tolist()
    x = M32 >> 1
    for multiplier in (0x846CA68B, high | 1):
        x = x * pow(multiplier, -1, 1 << 32) & M32
        x ^= x >> 16 if multiplier == 0x846CA68B else 0
    token = torch.tensor([(x ^ low) & M32]).int()
    largest = -negative_exponential(torch.tensor([[low], [high]], dtype=torch.int32), token).item()
    assert largest == pytest.approx(24 * math.log(2), rel=1e-3)


def test_it_is_exponential() -> None:
    drawn = exponential(list(range(64)), [0] * 64, list(range(4096))).ravel()
    assert drawn.min() > 0
    assert np.isfinite(drawn).all()
    counts = np.histogram(1 - np.exp(-drawn), bins=256, range=(0, 1))[0]
    assert chi_square(counts, np.full(256, drawn.size / 256)) < 4


def test_the_tail_that_decides_is_exponential_too() -> None:
    """Few variates are below 1e-4, and there must be as many as there should be, at every scale."""
    drawn = exponential(list(range(512)), [3] * 512, list(range(16384)))
    for scale in (1e-3, 1e-4, 1e-5, 1e-6):
        expected = drawn.size * scale
        assert abs((drawn < scale).sum() - expected) < 4 * math.sqrt(expected)


def test_neighbours_are_independent() -> None:
    """Consecutive seeds, steps and tokens: joint frequencies of two variates are products."""
    base = exponential(list(range(200)), [5] * 200, list(range(2000)))
    others = {
        "seed": exponential(list(range(1, 201)), [5] * 200, list(range(2000))),
        "step": exponential(list(range(200)), [6] * 200, list(range(2000))),
        "token": exponential(list(range(200)), [5] * 200, list(range(1, 2001))),
        "far token": exponential(list(range(200)), [5] * 200, list(range(1 << 16, (1 << 16) + 2000))),
    }
    for name, other in others.items():
        x, y = (np.floor((1 - np.exp(-drawn)) * 16).astype(int).clip(max=15) for drawn in (base, other))
        counts = np.bincount((x * 16 + y).ravel(), minlength=256)
        assert chi_square(counts, np.full(256, base.size / 256)) < 4, name


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations above what chance gives."""
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))
