# SPDX-License-Identifier: Apache-2.0
"""Guesses, which decide how long a row takes: between which two logits its least kept one lies.

From a sample of the row, between two logits of which all is known; from its groups, of which the largest
logit and the mass are; or from a line through what is known at two logits. Knows nothing of what becomes of
them."""

from __future__ import annotations

import triton
import triton.language as tl

from sgl_kernels._triton.sampling_row import GROUP, INFINITY

FAINT = tl.constexpr(40.0)  # a token so many powers of two below the first decides no sum
_DEVIATIONS = tl.constexpr(3.5)  # how far from what is expected the least kept logit may lie
_BINS = tl.constexpr(256)
_HALVINGS = tl.constexpr(12)
_RUN = tl.constexpr(8)  # consecutive ids of a sample: 32 bytes of float32


@triton.jit
def sample_of(x_ptr, vocab, SAMPLE: tl.constexpr):
    """Logits [SAMPLE] of a row, in even distances; -inf beyond its end and for what is no number."""
    place = tl.arange(0, SAMPLE)
    first = (place // _RUN).to(tl.int64) * vocab // (SAMPLE // _RUN) // _RUN * _RUN
    ids = first.to(tl.int32) + place % _RUN
    x = tl.load(x_ptr + ids, ids < vocab, other=-INFINITY).to(tl.float32)
    return tl.where(x < INFINITY, x, -INFINITY)


@triton.jit
def by_sample(x, low, high, scale, mass_share, count_share):
    """Two logits, between which lies the one from which on there is the first of two shares of what is above
    `low` up to `high`; a share is infinite if it has no say. And the slack of mass_share."""
    there = (x > low) & (x <= high)
    below = tl.where(there, (high - x) * scale, 0.0)
    width = tl.maximum(tl.minimum(tl.max(below, 0), FAINT), 1e-6) / _BINS
    numbers = tl.histogram(tl.minimum(below / width, _BINS - 1.0).to(tl.int32), _BINS, there).to(tl.float32)
    weights = tl.exp2(-(tl.arange(0, _BINS) + 0.5) * width)  # as if a bin's tokens were in its middle
    count, mass = tl.cumsum(numbers, 0), tl.cumsum(numbers * weights, 0)
    number, total = tl.sum(numbers, 0), tl.sum(numbers * weights, 0)
    squares = tl.sum(numbers * weights * weights, 0)
    slack = _DEVIATIONS * tl.sqrt(squares * tl.maximum(mass_share * (1.0 - mass_share), 0.0))
    slack_k = _DEVIATIONS * tl.sqrt(number * tl.maximum(count_share * (1.0 - count_share), 0.0))
    wanted, k = mass_share * total, count_share * number
    beyond = tl.sum(((mass < wanted + slack) & (count < k + slack_k)).to(tl.int32), 0)
    before = tl.sum(((mass < wanted - slack) & (count < k - slack_k)).to(tl.int32), 0)
    return high - (beyond + 1) * width / scale, high - before * width / scale, slack / total


@triton.jit
def by_groups(best, masses, top, scale, top_k, wanted, vocab, groups):
    """Two logits, from the first of which on there is more than is kept, from the second on less: by the
    masses of groups, since a group holds no more below a logit than its tokens can, and by how many groups
    the top_k tokens of a row lie in, if they lie at random."""
    fill = top_k.to(tl.float32) / groups
    empty = tl.exp(-fill)
    slack = _DEVIATIONS * tl.sqrt(groups * (empty - (1.0 + fill) * empty * empty)) + 1.0
    reached = tl.where(top_k < vocab, groups * (1.0 - empty), INFINITY)
    least = tl.max(tl.where(best > -INFINITY, -best, -INFINITY), 0)
    least = tl.maximum(-least, top - FAINT / scale)
    low, beyond_low, high, beyond_high = least, top, least, top
    for _ in range(_HALVINGS):
        middle = 0.5 * low + 0.5 * beyond_low
        surely = masses - (GROUP - 1) * tl.exp2((middle - top) * scale)
        surely = tl.maximum(surely, tl.exp2((best - top) * scale))
        there = best >= middle
        enough = tl.sum(tl.where(there, surely, 0.0), 0) >= wanted
        enough = enough | (tl.sum(there.to(tl.float32), 0) >= reached + slack)
        low, beyond_low = tl.where(enough, middle, low), tl.where(enough, beyond_low, middle)
        middle = 0.5 * high + 0.5 * beyond_high
        there = best >= middle
        enough = tl.sum(tl.where(there, masses, 0.0), 0) >= wanted
        enough = enough | (tl.sum(there.to(tl.float32), 0) >= reached - slack)
        high, beyond_high = tl.where(enough, middle, high), tl.where(enough, beyond_high, middle)
    return tl.where(low > least, low, -INFINITY), beyond_high


@triton.jit
def by_line(low, high, number, mass_share, count_share):
    """Two logits around where there is the first of two shares of what is above `low` up to `high`, which are
    this many tokens, if these lie evenly."""
    share = tl.minimum(mass_share, count_share)
    near = 0.05 + 2.0 / tl.sqrt(number.to(tl.float32))
    first, second = tl.minimum(share + near, 1.0), tl.maximum(share - near, 0.0)
    return high - (high - low) * first, high - (high - low) * second
