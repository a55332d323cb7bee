# SPDX-License-Identifier: Apache-2.0
"""A pass for which memory does not suffice, in parts: what one part takes is free again for the next.

The allocator fails when it is asked, before the device computes, and what a failed attempt has written is
written again. Requests in parts of few tokens that fail even so cannot be served now; the others go on. It is
for a rank that computes alone: others would wait for it in a reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from sgl_runtime.runner.assemble import Pass

T = TypeVar("T")

_LEAST = 128  # tokens of a part that is not divided again


def attempt(compute: Callable[[], T]) -> T | None:
    """What it computes; None if the device has not the memory."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        return None  # with the exception, the tensors of its frames are gone


def in_parts(compute: Callable[[Pass], Tensor], step: Pass, hidden: Tensor) -> list[int]:
    """Compute the pass in parts, and write the hidden states of its T tokens into `hidden` [T, size].

    Returns which of its requests could not be computed; their hidden states are not written. A part's own
    are those of all its tokens.
    """
    failed: set[int] = set()
    half = -(-step.tokens // 2)
    open_parts = [(half, step.tokens), (0, half)]  # the last one is next: keys are there before their queries
    while open_parts:
        start, end = open_parts.pop()
        made = None if start == end else attempt(lambda: compute(part(step, start, end)))  # noqa: B023
        if made is not None:
            hidden[start:end] = made
        elif end - start > _LEAST:
            half = (start + end) // 2
            open_parts += [(half, end), (start, half)]
        elif start < end:
            failed.update(_requests(step, start, end).tolist())
    return sorted(failed)


def part(step: Pass, start: int, end: int) -> Pass:
    """Tokens [start, end) of a pass whose earlier tokens are computed. Shared prefixes are read by each."""
    layout = step.layout
    assert layout.kv_starts is not None, "slots are those of a page table"
    which = _requests(step, start, end)
    q_lens, kv_lens = np.array(layout.q_lens)[which], np.array(layout.kv_lens)[which]
    q_ends = np.cumsum(layout.q_lens)[which]
    after = np.maximum(q_ends - end, 0)
    before = np.maximum(start - (q_ends - q_lens), 0)
    return Pass(
        step.ids[:, start:end],
        replace(
            layout,
            q_lens=tuple((q_lens - before - after).tolist()),
            kv_lens=tuple((kv_lens - after).tolist()),
            kv_starts=tuple(layout.kv_starts[index] for index in which.tolist()),
            shared=(),
        ),
        None,
    )


def _requests(step: Pass, start: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Those with tokens in [start, end)."""
    first, last = step.owners([start, end - 1])
    return np.arange(first, last + 1)
