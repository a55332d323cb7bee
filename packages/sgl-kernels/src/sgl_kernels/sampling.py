# SPDX-License-Identifier: Apache-2.0
"""From logits to tokens: greedy, temperature, top-k, top-p, min-p; parameters and seeds per row.

What is kept, at the row's temperature: a token stays if fewer than top_k tokens are strictly more probable,
if those have less than top_p of the probability between them, and if it is at least min_p times as probable
as the first, which always stays. Equally probable tokens stay or go together, so no sort decides a tie.

How one is drawn: 2,048 consecutive ids, seen as a table of 16 rows, are 16 groups of eight columns. Every
group draws an exponential variate, and the least variate per kept probability wins (the group of the largest
log-probability plus Gumbel noise, with one logarithm less); then the tokens of that group race in the same
way. Each race alone is exact, so the two are, and nearly all tokens need no noise. The noise is a function of
(seed, step, what races), so a row's token depends on its own logits and parameters alone: not on the batch
around it, not on a generator's state.

Probabilities are float32: where those before a token come within their rounding of top_p, or a token's within
it of min_p, it may stay here and go there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, check, require
from sgl_kernels.noise import negative_exponential, row_keys, spread

# The shape of groups is a part of the definition: another draws other tokens. A thread of a GPU that reads
# whole rows finds most of a group's sum without asking others, and 32 bytes of a row are of one group.
ROWS, COLUMNS, WIDE = 16, 128, 8
NARROW = 256  # the largest top_k of which only the groups of the largest logits are read again
COLDEST = 1e-6  # a lower temperature is this one; the largest logit wins long before
LEAST = 1e-30  # a top_p of less of the total is this much: the most probable token stays

# Probabilities that exist at once. On a CPU a temporary must be small enough for the allocator to keep: fresh
# pages cost more than the arithmetic on them.
_AT_ONCE = 1 << 18
_WIDTHS = (256, 4096)  # how many of the most probable tokens to look at before sorting all


@dataclass(frozen=True)
class SamplingParameters:
    """Of m rows, on the device of their logits. `of` makes them from what the host knows.

    draws: some row may have a temperature above 0. limits: some row that draws may have top_k, top_p or
    min_p; wide: one of these rows may have no top_k, or one above NARROW. They choose the kernels without a
    look at the device, so whoever writes other values to the tensors (between replays of a CUDA graph, for
    example) sets them for all that may come.
    """

    packed: Tensor  # [6, m] int32: the bits of what is below, in this order
    draws: bool
    limits: bool
    wide: bool

    @property
    def temperature(self) -> Tensor:
        """[m] float32; 0: the largest logit."""
        return self.packed[0].view(torch.float32)

    @property
    def top_k(self) -> Tensor:
        """[m] int32; below 1: all."""
        return self.packed[1]

    @property
    def top_p(self) -> Tensor:
        """[m] float32; 1: all."""
        return self.packed[2].view(torch.float32)

    @property
    def min_p(self) -> Tensor:
        """[m] float32; 0: all."""
        return self.packed[3].view(torch.float32)

    @property
    def keys(self) -> Tensor:
        """[2, m] int32: of the noise."""
        return self.packed[4:]

    @classmethod
    def of(
        cls,
        temperature: ArrayLike,
        top_k: ArrayLike,
        top_p: ArrayLike,
        min_p: ArrayLike,
        seeds: ArrayLike,
        steps: ArrayLike,
        device: torch.device | str = "cpu",
    ) -> SamplingParameters:
        """From host arrays (numpy, lists, CPU tensors), [m] each, in one copy, which the host does not await.

        temperature (0: the largest logit), top_k integers (below 1: all), top_p in [0, 1] (1: all, 0: the
        most probable), min_p in [0, 1] (0: all), seeds int64, steps int32, not negative: with the seed, the
        counter of the noise. Raises ValueError that names the array if one has another length or is out of
        its range.
        """
        heat, p, floor = (np.asarray(x, np.float32) for x in (temperature, top_p, min_p))
        k = np.asarray(top_k, np.int64).clip(0, np.iinfo(np.int32).max).astype(np.int32)
        seed, step = np.asarray(seeds, np.int64), np.asarray(steps, np.int32)
        columns: dict[str, NDArray[Any]] = {
            "top_k": k,
            "top_p": p,
            "min_p": floor,
            "seeds": seed,
            "steps": step,
        }
        require(heat.ndim == 1, "temperature", f"must have one dimension, not shape {heat.shape}")
        for name, column in columns.items():
            require(column.shape == heat.shape, name, f"must be of shape {heat.shape}, not {column.shape}")
        require(
            bool(((heat >= 0) & (heat < np.inf)).all()), "temperature", "must be finite, and not negative"
        )
        require(bool(((p >= 0) & (p <= 1)).all()), "top_p", "must be between 0 and 1")
        require(bool(((floor >= 0) & (floor <= 1)).all()), "min_p", "must be between 0 and 1")
        require(bool((step >= 0).all()), "steps", "must not be negative")
        bits = np.concatenate(
            [heat.view(np.int32), k, p.view(np.int32), floor.view(np.int32), *row_keys(seed, step)]
        )
        packed = torch.from_numpy(bits).view(6, -1)
        if torch.device(device).type == "cuda":
            packed = packed.pin_memory()
        draws = heat > 0
        limits = draws & ((k > 0) | (p < 1) | (floor > 0))
        wide = limits & ((k == 0) | (k > NARROW))
        on_device = packed.to(device, non_blocking=True)
        return cls(on_device, bool(draws.any()), bool(limits.any()), bool(wide.any()))


def sample(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    """One token per row of logits [m, V] -> [m] int32, on their device; -1 where a row names none.

    logits are float32, float16 or bfloat16, elements of a row side by side; they are not changed. The
    parameters are of m rows on the same device. A row names no token if it has NaN or plus infinity, or
    nothing above minus infinity; the other rows do not notice. Of several largest logits, greedy rows take
    the first. The host does not wait for the device. Raises ValueError on another shape, dtype or device.

    Source: the races are Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006; top-p is
    Holtzman et al., "The Curious Case of Neural Text Degeneration", 2020; min-p is Nguyen et al., 2024.
    """
    check("logits", logits, (None, None), dtypes=FLOATS, rows=True)
    require(logits.shape[1] > 0, "logits", "must have a vocabulary")
    check("parameters", parameters.packed, (6, len(logits)), like=logits, dtypes=(torch.int32,))
    if torch.compiler.is_compiling():
        return _opaque(logits, parameters.packed, parameters.draws, parameters.limits, parameters.wide)
    return _sample(logits, parameters)


def _sample(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    if kernels := fast("sampling", logits.device):
        return kernels.sample(logits, parameters)
    return reference(logits, parameters)


def reference(logits: Tensor, parameters: SamplingParameters) -> Tensor:
    """`sample` in torch, on any device; arguments are not checked."""
    if not parameters.draws:
        return _greedy(logits)
    if logits.device.type != "cpu":
        # Which row is of which kind is known to the device alone: no wait for it.
        drawn = _draw(logits, parameters.packed, parameters.limits, ())
        return torch.where(parameters.temperature > 0, drawn, _greedy(logits))
    greedy, top_k = parameters.temperature <= 0, parameters.top_k
    limits = ~greedy & (((top_k > 0) & (top_k < logits.shape[1])) | (parameters.top_p < 1))
    tokens = torch.empty(len(logits), dtype=torch.int32)
    at_once = max(1, _AT_ONCE // max(COLUMNS, logits.shape[1]))
    for kind in (greedy, limits, ~(greedy | limits)):
        members = kind.nonzero().squeeze(1)
        for start in range(0, len(members), at_once):
            rows = members[start : start + at_once]
            some, packed = logits[rows], parameters.packed[:, rows]
            tokens[rows] = _greedy(some) if kind is greedy else _draw(some, packed, kind is limits, _WIDTHS)
    return tokens


@torch.library.custom_op(
    "sgl_kernels::sample",
    mutates_args=(),
    schema="(Tensor logits, Tensor packed, bool draws, bool limits, bool wide) -> Tensor",
)
def _opaque(logits: Tensor, packed: Tensor, draws: bool, limits: bool, wide: bool) -> Tensor:
    """For torch.compile, which cannot follow rows of different kinds."""
    return _sample(logits, SamplingParameters(packed, draws, limits, wide))


@_opaque.register_fake
def _(logits: Tensor, packed: Tensor, draws: bool, limits: bool, wide: bool) -> Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.int32)


def _greedy(logits: Tensor) -> Tensor:
    best, tokens = logits.max(-1)  # NaN is the largest
    return torch.where(best.isfinite(), tokens, -1).int()


def _draw(logits: Tensor, packed: Tensor, limited: bool, widths: tuple[int, ...]) -> Tensor:
    """logits [r, V] -> [r] int32. limited: by top_k or top_p."""
    these = SamplingParameters(packed, True, limited, limited)
    scores = logits.float()
    best = scores.amax(-1, keepdim=True)
    weights = scores.sub(best).div_(these.temperature[:, None].clamp(min=COLDEST)).exp_()
    if limited:
        weights.mul_(scores >= _threshold(scores, weights, these, widths))
    weights.mul_(weights >= these.min_p[:, None])
    sums = _by_group(weights)
    numbers = -1 - torch.arange(sums.shape[1], dtype=torch.int32, device=logits.device)  # not those of tokens
    ids = _members(_race(sums, these.keys, numbers)[:, None], logits.shape[1])
    some = weights.gather(1, ids.clamp(max=logits.shape[1] - 1).long()).mul_(ids < logits.shape[1])
    tokens = ids.gather(1, _race(some, these.keys, ids)[:, None].long()).squeeze(1)
    return torch.where(best.squeeze(1).isfinite(), tokens, -1)


def _by_group(weights: Tensor) -> Tensor:
    """weights [r, V] -> their sums [r, groups]."""
    rows, vocab_size = weights.shape
    whole = vocab_size // (ROWS * COLUMNS) * ROWS * COLUMNS
    rest = F.pad(weights[:, whole:], (0, -vocab_size % COLUMNS))
    tables = [weights[:, :whole].view(rows, whole // (ROWS * COLUMNS), ROWS, COLUMNS)]
    tables += [rest.view(rows, 1, -1, COLUMNS)] if rest.shape[1] else []
    columns = torch.cat([table.sum(2) for table in tables], 1)
    return columns.view(rows, -1, WIDE).sum(-1)


def _members(group: Tensor, vocab_size: int) -> Tensor:
    """The ids of a group's tokens, ascending: [r, 1] int32 -> [r, n]; some may lie beyond the vocabulary."""
    each = COLUMNS // WIDE  # groups of a table
    rows = min(ROWS, -(-vocab_size // COLUMNS))
    member = torch.arange(rows * WIDE, dtype=torch.int32, device=group.device)
    first = group // each * (ROWS * COLUMNS) + group % each * WIDE
    return first + member // WIDE * COLUMNS + member % WIDE


def _race(weights: Tensor, keys: Tensor, numbers: Tensor) -> Tensor:
    """weights [r, n], numbers [n] or [r, n] int32 -> [r] int32: who has the least variate for its weight."""
    return weights.div(negative_exponential(keys, spread(numbers))).min(-1).indices.int()


def _threshold(scores: Tensor, weights: Tensor, these: SamplingParameters, widths: tuple[int, ...]) -> Tensor:
    """The least logit that top_k and top_p keep, [r, 1]; from the widths[0] largest logits, or from more."""
    vocab_size = scores.shape[1]
    width = min(*widths[:1], vocab_size) if widths else vocab_size
    values, ids = scores.topk(width)
    top_k, top_p = these.top_k.long()[:, None], these.top_p[:, None]
    wanted = (weights.sum(-1, keepdim=True, dtype=torch.float64) * top_p).clamp_(min=LEAST)
    exact = weights.gather(1, ids).double()
    before = exact.cumsum(-1).sub_(exact)  # the probability of those that come first
    last = (before < wanted).sum(-1, keepdim=True).sub_(1).clamp_(min=0)
    kth = values.gather(1, top_k.clamp(max=width).sub_(1).clamp_(min=0))
    lowest = torch.where((top_k > 0) & (top_k < vocab_size), kth, float("-inf"))
    lowest = torch.where(top_p < 1, torch.maximum(lowest, values.gather(1, last)), lowest)
    if width < vocab_size:
        # Of a row whose last candidate is kept, others beyond it may be kept, too.
        rows = (values[:, -1:] >= lowest).squeeze(1).nonzero().squeeze(1)
        if len(rows):
            rest = SamplingParameters(these.packed[:, rows], True, True, True)
            lowest[rows] = _threshold(scores[rows], weights[rows], rest, widths[1:])
    return lowest
