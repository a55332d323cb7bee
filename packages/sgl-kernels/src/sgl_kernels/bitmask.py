# SPDX-License-Identifier: Apache-2.0
"""Which tokens a row may take, as grammars say it: int32 words, bit i of word w for token 32 w + i.

The layout of xgrammar, llguidance and outlines-core. Knows no grammar.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, INTEGERS, check
from sgl_kernels._rows import put_rows


def apply_token_bitmask(logits: Tensor, bitmask: Tensor, rows: Tensor | None = None) -> None:
    """The logits of tokens whose bit is 0 become -inf, in place.

    logits [m, V] float32, float16 or bfloat16; bitmask [n, W] int32, 32 W at least V (what is beyond V is not
    looked at); the last dimensions of both are contiguous. rows [n] int32 or int64: the row of logits that
    each mask is for, none twice; a negative one is none (None: row i for i, and n = m).

    Raises ValueError on other shapes, dtypes, strides and devices. A row beyond the logits is an IndexError
    on a CPU; on a GPU nothing happens to it.
    """
    check("logits", logits, [None, None], dtypes=FLOATS, rows=True)
    check("bitmask", bitmask, [None, None], like=logits, dtypes=(torch.int32,), rows=True)
    words = -(-logits.shape[1] // 32)
    if bitmask.shape[1] < words:
        given = f"{logits.shape[1]} tokens, not {bitmask.shape[1]}"
        raise ValueError(f"bitmask: must have {words} words a row for {given}")
    if rows is None:
        check("bitmask", bitmask, [len(logits), None])
    else:
        check("rows", rows, [len(bitmask)], like=logits, dtypes=INTEGERS)
    if kernels := fast("bitmask", logits.device):
        kernels.apply_token_bitmask(logits, bitmask, rows)
        return
    bits = torch.arange(32, dtype=torch.int32, device=logits.device)
    allowed = ((bitmask[:, :words, None] >> bits) & 1).bool().flatten(1)[:, : logits.shape[1]]
    if rows is None:
        logits.masked_fill_(~allowed, float("-inf"))
    elif len(logits):
        rows = rows.long()
        some = logits.index_select(0, rows.clamp(min=0)).masked_fill_(~allowed, float("-inf"))
        put_rows([(logits, some)], rows)
