# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities of sampled tokens and of prompt tokens, and the most likely beside them.

They are those of the model: from its raw logits, before bias, penalties and temperature. Prompt positions
can be many, so their logits exist a slice at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from sgl_kernels import TokenLogprobs, logprobs_of_hidden, logprobs_of_logits
from torch import Tensor

from sgl_runtime.messages import I32, LogprobArrays
from sgl_runtime.runner.transfer import to_device, to_host

Entry: TypeAlias = tuple[float, list[tuple[int, float]]]  # as in `messages.Result`


@dataclass(frozen=True)
class Reported:
    """Log-probabilities on their way to the host: entry i belongs to position which[i] of what was asked."""

    which: list[int]
    top: list[int]  # how many of the most likely tokens each entry reports
    values: TokenLogprobs

    @classmethod
    def of(cls, which: NDArray[np.integer], top: NDArray[np.integer], values: TokenLogprobs) -> Reported:
        on_host = TokenLogprobs(
            to_host(values.target), to_host(values.top_values), to_host(values.top_tokens)
        )
        return cls(which.tolist(), top.tolist(), on_host)

    def entries(self) -> list[Entry]:
        """When the values are on the host."""
        targets = self.values.target.tolist()
        tokens, logprobs = self.values.top_tokens.tolist(), self.values.top_values.tolist()
        return [
            (target, list(zip(tokens[i][:top], logprobs[i][:top], strict=True)))
            for i, (target, top) in enumerate(zip(targets, self.top, strict=True))
        ]


def of_sampled(logits: Tensor, tokens: Tensor, wanted: LogprobArrays) -> Reported | None:
    """Of `tokens` [m], sampled from raw `logits` [m, V], where `wanted.top` asks for it."""
    which = np.flatnonzero(wanted.top >= 0)
    if not which.size:
        return None
    top = wanted.top[which]
    tokens = tokens.clamp(min=0)
    if which.size < len(tokens):
        index = to_device({"which": which}, np.int64, logits.device)["which"]
        logits, tokens = logits.index_select(0, index), tokens.index_select(0, index)
    return Reported.of(which, top, logprobs_of_logits(logits, tokens, int(top.max())))


def of_prompt(
    hidden: Tensor,
    logits: Callable[[Tensor], Tensor],
    targets: Tensor,
    counts: Sequence[int] | None,
    top: I32,
    vocab_size: int,
) -> Reported:
    """Of `targets` [p], tokens that follow those with the hidden states `hidden`: one each [p, d], or
    `counts` of them each. Every rank calls it.

    logits: hidden states of a few rows -> logits [rows, vocab_size]. top [p]: as `LogprobArrays.input_top`.
    """
    values = logprobs_of_hidden(hidden, logits, targets, int(top.max()), vocab_size, counts)
    return Reported.of(np.arange(top.size), top, values)
