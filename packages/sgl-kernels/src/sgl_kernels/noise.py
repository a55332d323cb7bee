# SPDX-License-Identifier: Apache-2.0
"""Noise without a generator: a hash of (seed, step, number), the same on every device and in any batch.

Each (seed, step) becomes a key of 64 bits by the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014, with the constants of Stafford's variant 13). Numbers, which
are token ids or what else is drawn from, are spread over 32 bits by `lowbias32` of Chris Wellons'
hash-prospector. Key and number are joined by one more round of the same kind: xor with one half of the key,
multiplication with the other, xor-shift, multiplication. The two spreads cost [m] and [V]; only the joint
round costs [m, V], and it is seven operations on int32.

Knows nothing of probabilities. `_triton/noise.py` makes the same bits on a GPU.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = (0x7FEB352D, 0x846CA68B - (1 << 32))  # of lowbias32, as int32
_INT31 = (1 << 31) - 1
_BELOW_INT31 = float((1 << 31) - 128)  # the largest float32 below 2³¹


def row_keys(seeds: NDArray[np.int64], steps: NDArray[np.int32]) -> NDArray[np.int32]:
    """seeds [m], steps [m] -> keys [2, m]."""
    keys = _mix64(seeds.astype(np.uint64))
    keys = _mix64(keys + (steps.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    halves = np.stack((keys & np.uint64(0xFFFFFFFF), keys >> np.uint64(32)))
    return halves.astype(np.uint32).view(np.int32)


def spread(numbers: Tensor) -> Tensor:
    """Numbers, int32 of any shape -> 32 well-mixed bits for each, as int32."""
    x = _xor_shift(numbers, 16).mul_(_MULTIPLIERS[0])
    x = _xor_shift(x, 15).mul_(_MULTIPLIERS[1])
    return _xor_shift(x, 16)


def negative_exponential(keys: Tensor, numbers: Tensor) -> Tensor:
    """keys [2, m], spread numbers [n] or [m, n] -> [m, n] float32: minus exponential variates.

    log(1 - u) with u of 31 bits, neither 0 nor 1; small variates, which decide who wins, are resolved finest.
    """
    x = torch.bitwise_xor(numbers, keys[0, :, None]).mul_(keys[1, :, None] | 1)
    x = _xor_shift(x, 16).mul_(_MULTIPLIERS[1]).bitwise_and_(_INT31)
    return torch.rsub(x.float().clamp_max_(_BELOW_INT31), -(2.0**-32), alpha=2.0**-31).log1p_()


def _xor_shift(x: Tensor, bits: int) -> Tensor:
    """`x ^ (x >> bits)` of unsigned integers. torch shifts int32 with the sign, hence the mask."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1).bitwise_xor_(x)


def _mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
