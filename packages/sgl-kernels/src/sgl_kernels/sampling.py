# SPDX-License-Identifier: Apache-2.0
"""From logits to tokens: greedy, temperature, top-k, top-p, min-p; parameters and seeds per row.

Every kept token draws an exponential variate, and the least variate per probability wins: the token of the
largest log-probability plus Gumbel noise, with one logarithm less. The noise is a function of (seed, step,
token id), so a row's token depends on its own logits and parameters alone: not on the batch around it, not on
a generator's state.

What is kept, at the row's temperature: a token stays if fewer than top_k tokens are strictly more probable,
if those have less than top_p of the probability between them, and if it is at least min_p times as probable
as the first. Equally probable tokens stay or go together, so the order in which a sort leaves them does not
matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sgl_kernels.noise import negative_exponential, row_keys, spread

# Probabilities that exist at once. On a CPU a temporary must be small enough for the allocator to keep: fresh
# pages cost more than the arithmetic on them.
_AT_ONCE_CPU, _AT_ONCE = 1 << 18, 1 << 25
_COLDEST = 1e-6  # dividing by less overflows float32; the largest logit wins long before
_WIDTHS = (256, 4096)  # how many of the most probable tokens to look at before sorting all


@dataclass(frozen=True)
class _Parameters:
    """Of r rows that draw, on the device."""

    temperature: Tensor  # [r, 1] float32, positive
    top_k: Tensor  # [r, 1] int64, 0: all
    top_p: Tensor  # [r, 1] float32, 1: all
    min_p: Tensor | None  # [r, 1] float32; None: 0 for every row
    keys: Tensor  # [r, 2] int32

    def at(self, rows: Tensor) -> _Parameters:
        """Of some of them."""
        min_p = None if self.min_p is None else self.min_p[rows]
        return _Parameters(self.temperature[rows], self.top_k[rows], self.top_p[rows], min_p, self.keys[rows])


def sample(
    logits: Tensor,
    temperature: ArrayLike,
    top_k: ArrayLike,
    top_p: ArrayLike,
    min_p: ArrayLike,
    seeds: ArrayLike,
    steps: ArrayLike,
) -> Tensor:
    """One token per row of logits [m, V] float32 -> [m] int32 on the device of logits.

    The parameters are host arrays (numpy, or CPU tensors), [m] each, because which path a row takes must not
    wait for the device: temperature float32 (0: the largest logit), top_k int32 (below 1: all), top_p float32
    (1: all), min_p float32 (0: all), seeds int64, steps int32 (with the seed, the counter of the noise).

    Greedy rows look for their maximum and nothing else; rows without top_k and top_p are not sorted. A row
    that has NaN or plus infinity among its logits gets some token; the others do not notice.
    """
    device, (m, vocab_size) = logits.device, logits.shape
    heat, p = np.asarray(temperature, np.float32), np.asarray(top_p, np.float32)
    k, floor = np.asarray(top_k, np.int64), np.asarray(min_p, np.float32)
    seed, step = np.asarray(seeds, np.int64), np.asarray(steps, np.int32)
    k = np.where(k < vocab_size, k.clip(min=0), 0)

    def put(column: NDArray[Any]) -> Tensor:
        return torch.from_numpy(column).to(device)

    def parameters(rows: NDArray[np.intp]) -> _Parameters:
        return _Parameters(
            temperature=put(heat[rows, None].clip(min=_COLDEST)),
            top_k=put(k[rows, None]),
            top_p=put(p[rows, None]),
            min_p=put(floor[rows, None]) if floor[rows].any() else None,
            keys=row_keys(seed[rows], step[rows], device),
        )

    greedy = heat <= 0
    if greedy.all():
        return logits.max(-1).indices.int()
    limited = ~greedy & ((k > 0) | (p < 1))
    tokens = torch.empty(m, dtype=torch.int32, device=device)
    at_once = max(1, (_AT_ONCE_CPU if device.type == "cpu" else _AT_ONCE) // vocab_size)
    for kind in (greedy, limited, ~(greedy | limited)):
        members = np.flatnonzero(kind)
        for start in range(0, members.size, at_once):
            rows = members[start : start + at_once]
            index = put(rows)
            some = logits if rows.size == m else logits.index_select(0, index)
            if kind is greedy:
                drawn = some.max(-1).indices
            elif kind is limited:
                drawn = _from_likeliest(some, parameters(rows))
            else:
                drawn = _from_all(some, parameters(rows))
            tokens.index_copy_(0, index, drawn.int())
    return tokens


def _from_all(logits: Tensor, parameters: _Parameters) -> Tensor:
    """logits [r, V] -> [r] int64: rows without top_k and top_p."""
    probs = (logits / parameters.temperature).softmax(-1)
    if parameters.min_p is not None:
        probs.mul_(probs >= parameters.min_p * probs.amax(-1, keepdim=True))
    ids = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    return probs.div_(negative_exponential(parameters.keys, spread(ids))).min(-1).indices


def _from_likeliest(logits: Tensor, parameters: _Parameters) -> Tensor:
    """logits [r, V] -> [r] int64: rows with top_k or top_p, drawn from among their most probable tokens."""
    scaled = logits / parameters.temperature
    # Whether a row needs a wider look is known to the device; only where that costs no wait is it asked.
    widths = _WIDTHS if logits.device.type == "cpu" else ()
    return _race(scaled, scaled.softmax(-1), parameters, widths)


def _race(scaled: Tensor, probs: Tensor, parameters: _Parameters, widths: tuple[int, ...]) -> Tensor:
    """scaled logits and probs [r, V] -> [r] int64, from the widths[0] most probable tokens, or from more."""
    vocab_size = scaled.shape[1]
    width = min(*widths[:1], vocab_size) if widths else vocab_size
    values, ids = scaled.topk(width)
    best = probs.gather(1, ids)
    kept = _kept(values, best, parameters)
    race = best.mul_(kept).div_(negative_exponential(parameters.keys, spread(ids.int())))
    picked = ids.gather(1, race.min(-1, keepdim=True).indices).squeeze(1)
    if width < vocab_size:
        # Of a row whose last candidate is kept, others beyond it may be kept, too.
        rows = kept[:, -1].nonzero().squeeze(1)
        if len(rows):
            picked[rows] = _race(scaled[rows], probs[rows], parameters.at(rows), widths[1:])
    return picked


def _kept(values: Tensor, probs: Tensor, parameters: _Parameters) -> Tensor:
    """Which of the w most probable tokens stay: scaled logits and probs [r, w], descending -> [r, w] bool."""
    width = values.shape[1]
    kth = values.gather(1, (parameters.top_k.clamp(max=width) - 1).clamp_(min=0))
    exact = probs.double()
    before = exact.cumsum(-1).sub_(exact)  # the probability of those that come first
    last = (before < parameters.top_p).sum(-1, keepdim=True).sub_(1).clamp_(min=0)
    floor = torch.where(parameters.top_k > 0, kth, float("-inf"))
    floor = torch.where(parameters.top_p < 1, torch.maximum(floor, values.gather(1, last)), floor)
    kept = values >= floor
    return kept if parameters.min_p is None else kept & (probs >= parameters.min_p * probs[:, :1])
