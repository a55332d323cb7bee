# SPDX-License-Identifier: Apache-2.0
"""How the tokens of many requests are divided among lanes that run side by side: evenly, and in few pieces.

The requests' tokens stand in one row, and the row is cut into as many equal stretches as there are lanes
("stream-K": Osama et al., "Stream-K: Work-centric Parallel Decomposition", 2023). A request that lies across
a cut is in several pieces, whose results are merged. Arithmetic on lengths; knows nothing of attention or
tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


class Pieces(NamedTuple):
    """p pieces in the order of the lanes, and so of the requests. Lane l has lanes[l] … lanes[l+1] - 1."""

    lanes: I64  # [lanes+1]
    owner: I64  # [p] the request of each
    begin: I64  # [p] its tokens, counted from the request's first
    end: I64  # [p]
    number: I64  # [n] pieces of each request, at least one


def divide(lengths: I64, lanes: int, *, least: int, cost: int, snap: int) -> Pieces:
    """Pieces of n requests of `lengths` [n] tokens, each at least 1: at most n + lanes - 1.

    least: fewer tokens than this are not worth a lane of their own. cost: one more piece takes as long as
    this many tokens. snap: a cut fewer tokens than this from the edge of a request moves there.
    """
    n = lengths.shape[0]
    if n == 0:
        nothing = np.zeros(0, np.int64)
        return Pieces(np.zeros(lanes + 1, np.int64), nothing, nothing, nothing, nothing)
    work = lengths + cost
    ends = work.cumsum()
    starts = ends - work
    total = int(ends[-1])
    used = min(lanes, max(1, total // (least + cost)))
    cuts = np.arange(lanes + 1) * total // used
    np.minimum(cuts, total, out=cuts)
    if snap:
        inner = cuts[1:used]
        at = ends.searchsorted(inner, "right")
        low, high = starts[at], ends[at]
        cuts[1:used] = np.where(inner - low < snap + cost, low, np.where(high - inner < snap, high, inner))
    first = cuts.searchsorted(starts, "right") - 1
    last = cuts.searchsorted(ends, "left") - 1
    number = last - first + 1
    owner = np.repeat(np.arange(n), number)
    lane = np.arange(owner.shape[0]) - np.repeat(number.cumsum() - number - first, number)
    base = starts[owner] + cost
    begin = np.maximum(cuts[lane] - base, 0)
    end = np.minimum(cuts[lane + 1] - base, lengths[owner])
    keep = end > begin  # a lane may end within the cost that comes before a request's first token
    if not keep.all():
        owner, lane, begin, end = owner[keep], lane[keep], begin[keep], end[keep]
    return Pieces(
        lanes=lane.searchsorted(np.arange(lanes + 1)),
        owner=owner,
        begin=begin,
        end=end,
        number=np.bincount(owner, minlength=n),
    )
