# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of given tokens and of the most likely ones, without a [rows, V] copy of anything.

A prompt of thousands of tokens times a vocabulary of a hundred thousand is gigabytes: `logprobs_of_hidden`
therefore projects and reduces a slice of rows at a time. Natural logarithms, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

_PROJECTED = 1 << 22  # logits that `project` makes at once
_REDUCED = 1 << 18  # logits reduced at once: temporaries that stay in the cache of a CPU


@dataclass(frozen=True)
class TokenLogprobs:
    """Of p rows: the target of each, and the n most likely tokens, most likely first."""

    target: Tensor  # [p] float32
    top_values: Tensor  # [p, n] float32
    top_tokens: Tensor  # [p, n] int32


def logprobs_of_logits(logits: Tensor, targets: Tensor, top: int = 0) -> TokenLogprobs:
    """Of logits [p, V], any float dtype, and targets [p], integers: each target, and the `top` most
    likely.
    """
    elements = _REDUCED if logits.device.type == "cpu" else _PROJECTED
    rows = max(1, elements // logits.shape[1])
    parts = (_reduce(logits[i : i + rows], targets[i : i + rows], top) for i in range(0, len(targets), rows))
    return _join(parts, logits.device, top)


def logprobs_of_hidden(
    hidden: Tensor, project: Callable[[Tensor], Tensor], targets: Tensor, top: int, vocab_size: int
) -> TokenLogprobs:
    """The same for hidden states [p, d], where `project` makes the logits [r, vocab_size] of r of them.

    `project` is called for as many rows at a time as make a few million logits; its calls follow from p and
    vocab_size alone, so that all ranks of a tensor-parallel model make the same ones.
    """
    rows = max(1, _PROJECTED // vocab_size)
    starts = range(0, len(targets), rows)
    parts = (logprobs_of_logits(project(hidden[i : i + rows]), targets[i : i + rows], top) for i in starts)
    return _join(parts, hidden.device, top)


def _reduce(logits: Tensor, targets: Tensor, top: int) -> TokenLogprobs:
    logprobs = logits.log_softmax(-1, dtype=torch.float32)
    values, tokens = logprobs.topk(top, dim=-1)
    return TokenLogprobs(logprobs.gather(1, targets.long()[:, None]).squeeze(1), values, tokens.int())


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
