# SPDX-License-Identifier: Apache-2.0
"""What every kernel of sampling knows of a row: its parameters, its groups, and how its logits are ordered.

A key is an int32 that orders like a logit of the row's dtype; two logits are neighbours if their keys are.
"""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels.sampling import COLDEST, COLUMNS, LEAST, NARROW, ROWS, WIDE

INFINITY = tl.constexpr(float("inf"))
EACH = tl.constexpr(COLUMNS // WIDE)  # groups of a table
TABLE = tl.constexpr(ROWS * COLUMNS)
GROUP = tl.constexpr(ROWS * WIDE)
NO_KEY = tl.constexpr(-2147483648)  # below that of any logit
_LOG2E = tl.constexpr(1.4426950408889634)
_COLDEST = tl.constexpr(COLDEST)
_LEAST = tl.constexpr(LEAST)
_NARROW = tl.constexpr(NARROW)
_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)


@triton.jit
def first_of(group):
    """The first id of a group."""
    return group // EACH * TABLE + group % EACH * _WIDE


@triton.jit
def members():
    """How far the tokens of a group [GROUP] lie from its first."""
    member = tl.arange(0, GROUP)
    return member // _WIDE * _COLUMNS + member % _WIDE


@triton.jit
def members_of(groups):
    """The ids of the tokens of groups [n] -> [n, GROUP]."""
    return first_of(groups)[:, None] + members()[None, :]


@triton.jit
def key_of(x, SHIFT: tl.constexpr):
    """int32 that orders like float32 x; both zeros have one. SHIFT: low bits that x's own dtype lacks."""
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> SHIFT


@triton.jit
def logit_of(key, SHIFT: tl.constexpr):
    """The float32 of a key."""
    bits = key << SHIFT
    low: tl.constexpr = (1 << SHIFT) - 1
    return tl.where(bits < 0, (bits | low) ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def rounded_up(x, SHIFT: tl.constexpr):
    """The least logit of the row's dtype that is not below float32 x."""
    key = key_of(x, SHIFT)
    return logit_of(tl.where(logit_of(key, SHIFT) < x, key + 1, key), SHIFT)


@triton.jit
def column_of(packed_ptr, COLUMN: tl.constexpr, row, rows):
    return tl.load(packed_ptr + COLUMN * rows + row)


@triton.jit
def scale_of(packed_ptr, row):
    """Of logits into powers of two. Greedy rows need none."""
    temperature = tl.load(packed_ptr + row).to(tl.float32, bitcast=True)
    return _LOG2E / tl.maximum(tl.where(temperature > 0, temperature, 1.0), _COLDEST)


@triton.jit
def limits_of(packed_ptr, row, rows, vocab):
    """Whether the row is narrow, whether it is wide, and top_k (`vocab` for all), top_p, min_p."""
    top_k = column_of(packed_ptr, 1, row, rows)
    top_k = tl.where((top_k > 0) & (top_k < vocab), top_k, vocab)
    top_p = column_of(packed_ptr, 2, row, rows).to(tl.float32, bitcast=True)
    min_p = column_of(packed_ptr, 3, row, rows).to(tl.float32, bitcast=True)
    draws = column_of(packed_ptr, 0, row, rows).to(tl.float32, bitcast=True) > 0.0
    limited = draws & ((top_k < vocab) | (top_p < 1.0) | (min_p > 0.0))
    narrow = limited & (top_k <= _NARROW)
    return narrow, limited & (top_k > _NARROW), top_k, top_p, min_p


@triton.jit
def wanted_of(top_p, total):
    """The mass that those before a kept token do not reach."""
    return tl.where(top_p < 1.0, tl.maximum(top_p * total, _LEAST), INFINITY)
