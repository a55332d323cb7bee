# SPDX-License-Identifier: Apache-2.0
"""The tanh of a soft cap, for kernels of Triton and of Gluon."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def tanh_of(x, factor):
    """tanh(x * factor), right at both infinities: 1 - 2 / (exp(2y) + 1)."""
    return 1.0 - 2.0 / (tl.exp2(x * (factor * 2.8853900817779268)) + 1.0)
