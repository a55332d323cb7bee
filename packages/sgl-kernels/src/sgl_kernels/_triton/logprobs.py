# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities: the logits are read once, for the largest and the sum of each group (as in sampling).

The n most likely tokens lie in the groups with the n largest maxima: one program of a row takes them one
after another, and reads again only the group that the next one lies in.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sgl_kernels._triton.sampling_read import Read
from sgl_kernels._triton.sampling_row import first_of
from sgl_kernels._triton.sizes import next_power_of_2
from sgl_kernels.logprobs import TokenLogprobs
from sgl_kernels.sampling import COLUMNS, ROWS, WIDE

_COLUMNS = tl.constexpr(COLUMNS)
_WIDE = tl.constexpr(WIDE)
_EACH = tl.constexpr(COLUMNS // WIDE)
_GROUP = tl.constexpr(ROWS * WIDE)
_INFINITY = tl.constexpr(float("inf"))
_WARPS = 4


@triton.jit(do_not_specialize=["n"])
def _report(
    x_ptr, target_ptr, best_ptr, peak_ptr, mass_ptr, out_ptr, values_ptr, tokens_ptr, vocab, tables, stride,
    n, NG: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x_ptr += row * stride
    group = tl.arange(0, NG)
    exists = group < tables * _EACH
    best = tl.load(best_ptr + row * tables * _EACH + group, exists, other=-_INFINITY)
    peak = tl.load(peak_ptr + row * tables + group // _EACH, exists, other=-_INFINITY)
    mass = tl.load(mass_ptr + row * tables * _EACH + group, exists, other=0.0)
    top = tl.max(best, 0)
    log_total = tl.log(tl.sum(mass * tl.exp(peak - top), 0))
    target = tl.load(target_ptr + row)
    inside = (target >= 0) & (target < vocab)
    logit = tl.load(x_ptr + target, inside, other=float("nan")).to(tl.float32)
    tl.store(out_ptr + row, logit - top - log_total)
    # Of each group: how many tokens have not been taken, the largest logit of theirs (`best`), and up to
    # which id those of this logit have been.
    member = tl.arange(0, _GROUP) // _WIDE * _COLUMNS + tl.arange(0, _GROUP) % _WIDE
    beyond = tl.maximum(vocab - first_of(group), 0)  # ids from the group's first on
    left = beyond // _COLUMNS * _WIDE + tl.minimum(beyond % _COLUMNS, _WIDE)
    left = tl.where(exists, tl.minimum(left, _GROUP), 0)
    last = tl.full((NG,), -1, tl.int32)
    for i in range(n):
        largest = tl.max(tl.where(left > 0, best, -_INFINITY), 0)
        here = tl.min(tl.where((left > 0) & (best == largest), group, NG - 1), 0)
        is_here = group == here
        ids = first_of(here) + member
        x = tl.load(x_ptr + ids, ids < vocab, other=-_INFINITY).to(tl.float32)
        after = tl.max(tl.where(is_here, last, -1), 0)
        token = tl.min(tl.where((x == largest) & (ids > after), ids, vocab - 1), 0)
        rest = (x < largest) | ((x == largest) & (ids > token))
        following = tl.max(tl.where(rest, x, -_INFINITY), 0)
        best = tl.where(is_here, following, best)
        last = tl.where(is_here, tl.where(following == largest, token, -1), last)
        left = tl.where(is_here, left - 1, left)
        tl.store(values_ptr + row * n + i, largest - top - log_total)
        tl.store(tokens_ptr + row * n + i, token)


def logprobs_of_logits(logits: Tensor, targets: Tensor, top: int) -> TokenLogprobs:
    rows, vocab = logits.shape
    device = logits.device
    target = torch.empty(rows, dtype=torch.float32, device=device)
    values = torch.empty(rows, top, dtype=torch.float32, device=device)
    tokens = torch.empty(rows, top, dtype=torch.int32, device=device)
    if rows:
        read = Read(logits, None)
        best, peak, mass = read.best, read.peak, read.mass
        _report[(rows,)](
            logits, targets, best, peak, mass, target, values, tokens, vocab, peak.shape[1], logits.stride(0),
            top, NG=next_power_of_2(best.shape[1]), num_warps=_WARPS,
        )  # fmt: skip
    return TokenLogprobs(target, values, tokens)
