# SPDX-License-Identifier: Apache-2.0
"""The noise of `sgl_kernels.noise`, bit for bit, inside kernels."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exponential(low, high, numbers):
    """Exponential variates of int32 numbers, for a key of two int32 halves."""
    x = _xor_shift(numbers.to(tl.uint32, bitcast=True), 16) * 0x7FEB352D
    x = _xor_shift(x, 15) * 0x846CA68B
    x = _xor_shift(x, 16) ^ low.to(tl.uint32, bitcast=True)
    x = x * (high.to(tl.uint32, bitcast=True) | 1)
    x = (_xor_shift(x, 16) * 0x846CA68B) & 0x7FFFFFFF
    u = tl.minimum(x.to(tl.float32), 2147483520.0) * 4.656612873077393e-10 + 2.3283064365386963e-10
    # -log(1 - u), as exact as the logarithm also where u is small (Kahan's correction).
    rest = 1.0 - u
    return tl.where(rest == 1.0, u, tl.log(rest) * (u / (rest - 1.0)))


@triton.jit
def _xor_shift(x, BITS: tl.constexpr):
    return x ^ (x >> BITS)
