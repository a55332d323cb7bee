# SPDX-License-Identifier: Apache-2.0
"""Bits to -inf: only what changes is written, and no logit is read."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.overlap import begin, overlapping
from sgl_kernels._triton.sizes import cdiv


class Tile(NamedTuple):
    """tokens and warps of a program."""

    tokens: int
    warps: int


TILE = Tile(2048, 4)


@triton.jit(do_not_specialize=["logits_rows"])
def _forbid(
    logits_ptr, bitmask_ptr, rows_ptr, logits_rows, vocabulary, stride, bitmask_stride,
    ROWS: tl.constexpr, TOKENS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    begin(OVERLAP)
    across = tl.cdiv(vocabulary, TOKENS)
    which = (tl.program_id(0) // across).to(tl.int64)
    row = which
    if ROWS:
        row = tl.load(rows_ptr + which).to(tl.int64)
    # By fours, which a thread writes at once where all are forbidden: most masks forbid most tokens.
    group = tl.program_id(0) % across * (TOKENS // 4) + tl.arange(0, TOKENS // 4)
    known = (row >= 0) & (row < logits_rows)
    word = tl.load(
        bitmask_ptr + which * bitmask_stride + group // 8, (group * 4 < vocabulary) & known, other=-1
    )
    bits = ((word >> (group % 8 * 4)) & 15)[:, None]
    place = tl.arange(0, 4)[None, :]
    token = group[:, None] * 4 + place
    inside = (token < vocabulary) & known
    at = logits_ptr + row * stride + token
    nothing = tl.full((TOKENS // 4, 4), float("-inf"), tl.float32)
    tl.store(at, nothing, inside & (bits == 0))
    tl.store(at, nothing, inside & (bits != 0) & (((bits >> place) & 1) == 0))


def apply_token_bitmask(logits: Tensor, bitmask: Tensor, rows: Tensor | None, tile: Tile = TILE) -> None:
    vocabulary = logits.shape[1]
    programs = len(bitmask) * cdiv(vocabulary, tile.tokens)
    if programs:
        _forbid[(programs,)](
            logits, bitmask, None if rows is None else rows.contiguous(), len(logits), vocabulary,
            logits.stride(0), bitmask.stride(0), ROWS=rows is not None, TOKENS=tile.tokens,
            num_warps=tile.warps, **overlapping(logits.device, programs),
        )  # fmt: skip
