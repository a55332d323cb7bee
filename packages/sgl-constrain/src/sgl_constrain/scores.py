# SPDX-License-Identifier: Apache-2.0
"""Masking a torch tensor of scores where it lies, from masks as packed words.

Only methods of the tensors are used, so nothing here imports torch; the words are unpacked on the scores'
device, so that a mask travels there as V / 8 bytes.
"""

from __future__ import annotations

from typing import Any

_WORD = 32


def forbidden(words: Any, size: int) -> Any:
    """words [..., ceil(V / 32)] int32 or int64, bit i % 32 of word i // 32 set when token i is allowed.

    Returns [..., size] bool on the device of `words`, True where a token is not allowed; what lies beyond the
    words is not allowed.
    """
    positions = words.new_ones(_WORD).cumsum(-1).to(words.dtype) - 1  # 0 ... 31, made on the device
    clear = (words.unsqueeze(-1) >> positions).bitwise_and_(1) == 0
    clear = clear.reshape(*words.shape[:-1], words.shape[-1] * _WORD)
    if clear.shape[-1] >= size:
        return clear[..., :size]
    wider = clear.new_ones((*clear.shape[:-1], size))
    wider[..., : clear.shape[-1]] = clear
    return wider
