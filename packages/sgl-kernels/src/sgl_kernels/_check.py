# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments: a kernel trusts its pointers, so what it is given is checked before it is launched.

Every failure is a ValueError that begins with the argument's name. Only what the host knows is looked at:
shapes, strides, dtypes, devices; never the values of a tensor.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)  # of caches
INTEGERS = (torch.int32, torch.int64)


def require(condition: bool, argument: str, message: str) -> None:
    """ValueError "argument: message" unless the condition holds."""
    if not condition:
        raise ValueError(f"{argument}: {message}")


def check(
    argument: str,
    x: Tensor,
    shape: Sequence[int | None] | None = None,
    *,
    like: Tensor | None = None,
    dtypes: Collection[torch.dtype] | None = None,
    rows: bool = False,
    contiguous: bool = False,
) -> None:
    """x has this shape (None: any length), one of the dtypes, and what else is asked.

    like: a tensor whose device x must share, and whose dtype too unless `dtypes` is given. rows: elements of
    the last dimension lie side by side. contiguous: x is contiguous.
    """
    if shape is not None and not _fits(x.shape, shape):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ValueError(f"{argument}: must be of shape [{wanted}], not {list(x.shape)}")
    if like is not None and x.device != like.device:
        raise ValueError(f"{argument}: must be on {like.device}, not on {x.device}")
    if dtypes is not None:
        if x.dtype not in dtypes:
            raise ValueError(f"{argument}: must be {' or '.join(map(_name, dtypes))}, not {_name(x.dtype)}")
    elif like is not None and x.dtype != like.dtype:
        raise ValueError(f"{argument}: must be {_name(like.dtype)}, not {_name(x.dtype)}")
    if rows and x.dim() and x.shape[-1] > 1 and x.stride(-1) != 1:
        raise ValueError(
            f"{argument}: elements of the last dimension must lie side by side, not {x.stride(-1)} apart"
        )
    if contiguous and not x.is_contiguous():
        raise ValueError(f"{argument}: must be contiguous; its strides are {list(x.stride())}")


def _fits(have: Sequence[int], want: Sequence[int | None]) -> bool:
    """Checks come before every launch of every layer, hence a plain loop."""
    if len(have) != len(want):
        return False
    for i, length in enumerate(want):  # noqa: SIM110
        if length is not None and length != have[i]:
            return False
    return True


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
