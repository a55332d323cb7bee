# SPDX-License-Identifier: Apache-2.0
"""Merging of partial attention states: attention over parts of the tokens becomes attention over all.

A state is what attention over some tokens gave: the output, and the logarithm of the sum of the exponentials
of its scores. Which tokens those were is not known here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sgl_kernels._backend import fast
from sgl_kernels._check import FLOATS, check


def merge_states(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """k states of each of n queries as one: out [n, k, h, d], lse [n, k, h] -> [n, h, d], [n, h].

    out is float32, float16 or bfloat16, and so is the first result; lse is float32, a natural logarithm, and
    so is the second. Any strides but the last dimension's of `out`, which is contiguous. A state whose lse is
    -inf saw no token: its output is ignored. Where no state saw one (k = 0 included), the result is 0 and
    -inf. Fresh tensors; sums are float32. Raises ValueError for other shapes, dtypes, devices or strides.
    Source: Ye et al., "FlashInfer", 2025 (composition of attention states).
    """
    check("out", out, [None, None, None, None], dtypes=FLOATS, rows=True)
    check("lse", lse, out.shape[:3], like=out, dtypes=(torch.float32,))
    if kernels := fast("merge", out.device):
        merged: tuple[Tensor, Tensor] = kernels.merge_states(out, lse)
        return merged
    if not out.shape[1]:
        shape = (out.shape[0], *out.shape[2:])
        return out.new_zeros(shape), lse.new_full(shape[:2], float("-inf"))
    total = lse.logsumexp(1)
    weight = (lse - total.masked_fill(total.isinf() & (total < 0), 0.0)[:, None]).exp()[..., None]
    return torch.where(weight > 0, out.float() * weight, 0.0).sum(1).to(out.dtype), total
