# SPDX-License-Identifier: Apache-2.0
"""Writing some rows of a tensor where the indices are known to the device alone, and some stand for none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sgl_kernels._check import FLOAT8


def put_rows(pairs: Iterable[tuple[Tensor, Tensor]], index: Tensor) -> None:
    """target[index] = rows for each (target, rows), where the index is not negative.

    index [n] int64, no row twice; the host looks at none of it on a GPU.
    """
    if not len(index):
        return
    if index.is_cpu and not torch.compiler.is_compiling() and int(index.min()) >= 0:
        for target, rows in pairs:
            _plain(target).index_copy_(0, index, _plain(rows))
        return
    keep = index >= 0
    # What has no row writes what the first that has one writes; if none has one, row 0 stays.
    first = keep.to(torch.uint8).argmax()
    which = torch.where(keep, torch.arange(len(index), device=index.device), first)
    there = index.index_select(0, which).clamp_(min=0)
    for target, rows in pairs:
        target, rows = _plain(target), _plain(rows)
        chosen = torch.where(keep.any(), rows.index_select(0, which), target[:1])
        target.index_copy_(0, there, chosen)


def take_rows(source: Tensor, index: Tensor) -> Tensor:
    """source[index]; index [n] int64, not negative."""
    return _plain(source).index_select(0, index).view(source.dtype)


def _plain(x: Tensor) -> Tensor:
    """x, or its bytes if it is float8, which torch does not index."""
    return x.view(torch.uint8) if x.dtype in FLOAT8 else x
