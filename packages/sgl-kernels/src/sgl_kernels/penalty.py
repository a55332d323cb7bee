# SPDX-License-Identifier: Apache-2.0
"""Penalties on tokens that a request has already seen, applied to raw logits in place.

Counting is the caller's: this file sees counts and masks, not token lists.
"""

from __future__ import annotations

import torch
from torch import Tensor


def apply_penalties(
    logits: Tensor,
    output_counts: Tensor,
    prompt_mask: Tensor,
    *,
    frequency: Tensor,
    presence: Tensor,
    repetition: Tensor,
) -> None:
    """Change the logits of seen tokens in place: first repetition, then frequency and presence.

    logits [m, V] float32; output_counts [m, V] integers: how often each token is among the row's output;
    prompt_mask [m, V] bool: the tokens of the row's prompt; frequency, presence, repetition [m] float32 (0, 0
    and 1 change nothing), repetition positive.

    repetition: the logit of a token in prompt or output is divided by it if positive, else multiplied with it
    (Keskar et al., "CTRL", 2019). frequency is subtracted once per occurrence in the output, presence once if
    there is any (the definitions of OpenAI's API reference).
    """
    seen = prompt_mask | (output_counts > 0)
    if logits.device.type == "cpu":
        # Seen tokens are few; looking for them is cheaper than arithmetic on all.
        row, token = seen.nonzero(as_tuple=True)
        some, counts = logits[row, token], output_counts[row, token]
        logits[row, token] = _penalised(some, counts, frequency[row], presence[row], repetition[row])
    else:
        # Their number is known to the device alone: no wait for it.
        columns = (frequency[:, None], presence[:, None], repetition[:, None])
        torch.where(seen, _penalised(logits, output_counts, *columns), logits, out=logits)


def _penalised(
    logits: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor, repetition: Tensor
) -> Tensor:
    """The new logits of seen tokens; all arguments broadcast."""
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    return repeated - counts * frequency - (counts > 0) * presence
