# SPDX-License-Identifier: Apache-2.0
"""Numbers for launches. Triton's functions of these names are for kernels: a call takes the host 3 us."""

from __future__ import annotations


def cdiv(x: int, y: int) -> int:
    """x / y, rounded up."""
    return -(-x // y)


def next_power_of_2(n: int) -> int:
    """The smallest power of two from n on; n positive."""
    return 1 << (n - 1).bit_length()
