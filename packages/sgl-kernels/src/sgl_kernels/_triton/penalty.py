# SPDX-License-Identifier: Apache-2.0
"""Penalties: counts and prompts are read whole, logits only where a token was seen."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sizes import cdiv


class Tile(NamedTuple):
    """tokens and warps of a program."""

    tokens: int
    warps: int


TILE = Tile(1024, 4)


@triton.jit(do_not_specialize=["logits_rows", "counts_rows"])
def _penalise(
    logits_ptr, counts_ptr, prompt_ptr, frequency_ptr, presence_ptr, repetition_ptr, rows_ptr, counted_ptr,
    logits_rows, counts_rows, vocabulary, stride, counts_stride, prompt_stride,
    ROWS: tl.constexpr, COUNTED: tl.constexpr, TOKENS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    across = tl.cdiv(vocabulary, TOKENS)
    which = (tl.program_id(0) // across).to(tl.int64)
    row = which
    counted = which
    if ROWS:
        row = tl.load(rows_ptr + which).to(tl.int64)
    if COUNTED:
        counted = tl.load(counted_ptr + which).to(tl.int64)
    # Four tokens for each thread, though sixteen bytes of the mask would be more: neighbouring threads read
    # neighbouring counts.
    token = tl.max_contiguous(tl.program_id(0) % across * TOKENS + tl.arange(0, TOKENS), 4)
    known = (row >= 0) & (row < logits_rows) & (counted >= 0) & (counted < counts_rows)
    inside = (token < vocabulary) & known
    counts = tl.load(counts_ptr + counted * counts_stride + token, inside, other=0)
    prompt = tl.load(prompt_ptr + counted * prompt_stride + token, inside, other=0)
    seen = (counts > 0) | (prompt != 0)
    at = logits_ptr + row * stride + token
    logit = tl.load(at, seen, other=0.0)
    repetition = tl.load(repetition_ptr + which)
    logit *= tl.where(logit > 0, 1.0 / repetition, repetition)
    logit -= counts.to(tl.float32) * tl.load(frequency_ptr + which)
    logit -= tl.where(counts > 0, tl.load(presence_ptr + which), 0.0)
    tl.store(at, logit, seen)


@triton.jit(do_not_specialize=["tokens", "counts_rows"])
def _count(
    counts_ptr, tokens_ptr, counted_ptr, tokens, counts_rows, vocabulary, stride,
    COUNTED: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    which = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens_ptr + which, which < tokens, other=-1).to(tl.int64)
    row = which
    if COUNTED:
        row = tl.load(counted_ptr + which, which < tokens, other=-1).to(tl.int64)
    valid = (token >= 0) & (token < vocabulary) & (row >= 0) & (row < counts_rows)
    one = tl.full((BLOCK,), 1, counts_ptr.dtype.element_ty)
    tl.atomic_add(counts_ptr + row * stride + token, one, valid, sem="relaxed")


def apply_penalties(
    logits: Tensor,
    output_counts: Tensor,
    prompt_mask: Tensor,
    *,
    frequency: Tensor,
    presence: Tensor,
    repetition: Tensor,
    rows: Tensor | None,
    counted: Tensor | None,
    tile: Tile = TILE,
) -> None:
    vocabulary = logits.shape[1]
    programs = len(frequency) * cdiv(vocabulary, tile.tokens)
    if programs:
        which = [None if index is None else index.contiguous() for index in (rows, counted)]
        _penalise[(programs,)](
            logits, output_counts, prompt_mask.view(torch.uint8), frequency, presence, repetition, *which,
            len(logits), len(output_counts), vocabulary,
            logits.stride(0), output_counts.stride(0), prompt_mask.stride(0),
            ROWS=rows is not None, COUNTED=counted is not None, TOKENS=tile.tokens,
            num_warps=tile.warps, **overlapping(logits.device, programs),
        )  # fmt: skip


def count_tokens(output_counts: Tensor, tokens: Tensor, *, counted: Tensor | None) -> None:
    if not len(tokens):
        return
    _count[(cdiv(len(tokens), 128),)](
        output_counts, tokens.contiguous(), None if counted is None else counted.contiguous(), len(tokens),
        len(output_counts), output_counts.shape[1], output_counts.stride(0),
        COUNTED=counted is not None, BLOCK=128, num_warps=4, **overlapping(output_counts.device, 1),
    )  # fmt: skip
