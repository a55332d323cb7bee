# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens and of the most likely ones, without a [rows, V] copy of anything.

A prompt of thousands of tokens times a vocabulary of a hundred thousand is gigabytes: `logprobs_of_hidden`
therefore projects and reduces a slice of rows at a time. Natural logarithms, float32. Knows nothing of
temperatures and penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, INTEGERS, check, require

_PROJECTED = 1 << 22  # logits that `project` makes at once
_REDUCED = 1 << 18  # logits reduced at once: temporaries that stay in the cache of a CPU


@dataclass(frozen=True)
class TokenLogprobs:
    """Of p rows: the target of each, and the n most likely tokens, most likely first."""

    target: Tensor  # [p] float32
    top_values: Tensor  # [p, n] float32
    top_tokens: Tensor  # [p, n] int32


def logprobs_of_logits(logits: Tensor, targets: Tensor, top: int = 0) -> TokenLogprobs:
    """Of logits [p, V] and targets [p]: the log-probability of each target, and the `top` most likely tokens.

    logits are float32, float16 or bfloat16, elements of a row side by side; targets int32 or int64, on their
    device. A target that is no token has NaN, and so has a row of NaN or plus infinity, whose most likely
    tokens mean nothing. Which of equally likely tokens are reported first is not defined. Raises ValueError
    on another shape, dtype or device, or a `top` that is not between 0 and V.
    """
    check("logits", logits, (None, None), dtypes=FLOATS, rows=True)
    check("targets", targets, (len(logits),), like=logits, dtypes=INTEGERS)
    require(0 <= top <= logits.shape[1], "top", f"must be between 0 and {logits.shape[1]}, not {top}")
    if kernels := fast("logprobs", logits.device):
        return kernels.logprobs_of_logits(logits, targets.contiguous(), top)
    elements = _REDUCED if logits.device.type == "cpu" else _PROJECTED
    rows = max(1, elements // logits.shape[1])
    parts = (_reduce(logits[i : i + rows], targets[i : i + rows], top) for i in range(0, len(targets), rows))
    return _join(parts, logits.device, top)


def logprobs_of_hidden(
    hidden: Tensor,
    project: Callable[[Tensor], Tensor],
    targets: Tensor,
    top: int,
    vocab_size: int,
    counts: Sequence[int] | None = None,
) -> TokenLogprobs:
    """The same for hidden states [p, d], where `project` makes the logits [r, vocab_size] of r of them.

    `counts` [p]: how many of the targets, in their order, each hidden state has, at least one; None: one.
    `project` is called for as many rows at a time as make a few million logits; its calls follow from p and
    vocab_size alone, so that all ranks of a tensor-parallel model make the same ones.
    """
    # Every slice of the targets begins at a multiple of 16 bytes, for which Triton's kernels are compiled.
    rows = max(1, _PROJECTED // vocab_size // 4 * 4)
    starts = range(0, len(hidden), rows)
    if counts is None:
        parts = (
            logprobs_of_logits(project(hidden[i : i + rows]), targets[i : i + rows], top) for i in starts
        )
        return _join(parts, hidden.device, top)
    ends = [0, *accumulate(counts)]
    several = (
        _several(
            project(hidden[i : i + rows]),
            targets[ends[i] : ends[min(i + rows, len(counts))]],
            counts[i : i + rows],
            top,
        )
        for i in starts
    )
    return _join(several, hidden.device, top)


def _several(logits: Tensor, targets: Tensor, counts: Sequence[int], top: int) -> TokenLogprobs:
    """Of logits [r, V] and targets [sum(counts)]. A row is reduced once, for its most likely token."""
    best = logits.argmax(-1)
    known = logprobs_of_logits(logits, best, top)
    normaliser = logits.gather(1, best[:, None]).squeeze(1).float() - known.target
    which = torch.repeat_interleave(torch.tensor(counts, device=logits.device), output_size=len(targets))
    found = logits[which, targets.long().clamp(0, logits.shape[1] - 1)].float() - normaliser[which]
    return TokenLogprobs(
        torch.where(_is_token(targets, logits), found, float("nan")),
        known.top_values[which],
        known.top_tokens[which],
    )


def _reduce(logits: Tensor, targets: Tensor, top: int) -> TokenLogprobs:
    logprobs = logits.log_softmax(-1, dtype=torch.float32)
    values, tokens = logprobs.topk(top, dim=-1)
    found = logprobs.gather(1, targets.long().clamp(0, logits.shape[1] - 1)[:, None]).squeeze(1)
    return TokenLogprobs(torch.where(_is_token(targets, logits), found, float("nan")), values, tokens.int())


def _is_token(targets: Tensor, logits: Tensor) -> Tensor:
    return (targets >= 0) & (targets < logits.shape[1])


def _join(parts: Iterable[TokenLogprobs], device: torch.device, top: int) -> TokenLogprobs:
    joined = list(parts)
    if not joined:
        none = torch.empty(0, top, device=device)
        return TokenLogprobs(torch.empty(0, device=device), none, none.int())
    return TokenLogprobs(
        torch.cat([part.target for part in joined]),
        torch.cat([part.top_values for part in joined]),
        torch.cat([part.top_tokens for part in joined]),
    )
