# SPDX-License-Identifier: Apache-2.0
"""Penalties on tokens that a request has already seen, applied to raw logits in place, and their count.

Counts and masks are rows of two tensors; whose a row is, this file does not know.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import INTEGERS, check
from sgl_kernels._rows import put_rows


def apply_penalties(
    logits: Tensor,
    output_counts: Tensor,
    prompt_mask: Tensor,
    *,
    frequency: Tensor,
    presence: Tensor,
    repetition: Tensor,
    rows: Tensor | None = None,
    counted: Tensor | None = None,
) -> None:
    """Change the logits of seen tokens in place: first repetition, then frequency and presence.

    frequency, presence, repetition [k] float32, contiguous: the strengths for k rows (0, 0 and 1 change
    nothing), repetition positive. logits [m, V] float32; rows [k] int32 or int64: which of its rows they are
    for, none twice (None: row i for i, and m = k). output_counts [c, V] int32 or int64: how often each token
    is among a request's output; prompt_mask [c, V] bool: the tokens of its prompt; counted [k] as rows: which
    row of the two belongs to each (None: row i to i, and c = k). The last dimensions are contiguous. Where
    `rows` or `counted` is negative, nothing happens.

    repetition: the logit of a token in prompt or output is divided by it if positive, else multiplied with it
    (Keskar et al., "CTRL", 2019). frequency is subtracted once per occurrence in the output, presence once if
    there is any (the definitions of OpenAI's API reference).

    Raises ValueError on other shapes, dtypes, strides and devices. A row beyond its tensor is an IndexError
    on a CPU; on a GPU nothing happens to it.
    """
    check("logits", logits, [None, None], dtypes=(torch.float32,), rows=True)
    check("output_counts", output_counts, [None, logits.shape[1]], like=logits, dtypes=INTEGERS, rows=True)
    check(
        "prompt_mask", prompt_mask, output_counts.shape, like=logits, dtypes=(torch.bool,), rows=True
    )  # fmt: skip
    k = len(logits) if rows is None else len(rows)
    for name, strength in (("frequency", frequency), ("presence", presence), ("repetition", repetition)):
        check(name, strength, [k], like=logits, dtypes=(torch.float32,), contiguous=True)
    if rows is not None:
        check("rows", rows, [k], like=logits, dtypes=INTEGERS)
    if counted is None:
        check("output_counts", output_counts, [k, None])
    else:
        check("counted", counted, [k], like=logits, dtypes=INTEGERS)
    if kernels := fast("penalty", logits.device):
        kernels.apply_penalties(
            logits, output_counts, prompt_mask,
            frequency=frequency, presence=presence, repetition=repetition, rows=rows, counted=counted,
        )  # fmt: skip
        return
    target, nowhere = logits, None
    if rows is not None or counted is not None:
        # The rows themselves, and where they go.
        every = torch.arange(k, device=logits.device)
        rows = every if rows is None else rows.long()
        counted = every if counted is None else counted.long()
        nowhere = torch.where(counted < 0, counted, rows)
        logits = logits.index_select(0, rows.clamp(min=0))
        counted = counted.clamp(min=0)
        output_counts, prompt_mask = (
            output_counts.index_select(0, counted),
            prompt_mask.index_select(0, counted),
        )
    seen = prompt_mask | (output_counts > 0)
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():
        # Seen tokens are few; looking for them is cheaper than arithmetic on all.
        row, token = seen.nonzero(as_tuple=True)
        some, counts = logits[row, token], output_counts[row, token]
        logits[row, token] = _penalised(some, counts, frequency[row], presence[row], repetition[row])
    else:
        # Their number is known to the device alone: no wait for it.
        columns = (frequency[:, None], presence[:, None], repetition[:, None])
        logits.copy_(torch.where(seen, _penalised(logits, output_counts, *columns), logits))
    if nowhere is not None:
        put_rows([(target, logits)], nowhere)


def count_tokens(output_counts: Tensor, tokens: Tensor, *, counted: Tensor | None = None) -> None:
    """`output_counts[counted[i], tokens[i]] += 1` for every i: the update after a step.

    output_counts [c, V] int32 or int64, its last dimension contiguous; tokens [k] int32 or int64: a negative
    one is no token; counted [k] int32 or int64, rows of output_counts, any of them more than once (None: row
    i for i, and c = k); a negative one is no row.

    Raises ValueError on other shapes, dtypes, strides and devices. A token or row beyond the counts is an
    IndexError on a CPU, and is not counted on a GPU.
    """
    check("output_counts", output_counts, [None, None], dtypes=INTEGERS, rows=True)
    check("tokens", tokens, [None], like=output_counts, dtypes=INTEGERS)
    if counted is None:
        check("output_counts", output_counts, [len(tokens), None])
    else:
        check("counted", counted, list(tokens.shape), like=output_counts, dtypes=INTEGERS)
    if kernels := fast("penalty", output_counts.device):
        kernels.count_tokens(output_counts, tokens, counted=counted)
        return
    row = torch.arange(len(tokens), device=tokens.device) if counted is None else counted.long()
    valid = (tokens >= 0) & (row >= 0)
    output_counts.index_put_(
        (row.clamp(min=0), tokens.long().clamp(min=0)), valid.to(output_counts.dtype), accumulate=True
    )


def _penalised(
    logits: Tensor, counts: Tensor, frequency: Tensor, presence: Tensor, repetition: Tensor
) -> Tensor:
    """The new logits of seen tokens; all arguments broadcast."""
    repeated = torch.where(logits > 0, logits / repetition, logits * repetition)
    return repeated - counts * frequency - (counts > 0) * presence
