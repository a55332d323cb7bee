# SPDX-License-Identifier: Apache-2.0
"""`MaskTable`: masks of grammars on the device, applied to the logits of the rows they are for.

A mask over 128k tokens is 16 KiB, and requests meet the same ones again and again: inside a string, between
two fields. So those used last stay on the device, and a step copies what is new and an index a row.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from sgl_kernels import apply_token_bitmask
from torch import Tensor

from sgl_runtime.messages import I32, Masks
from sgl_runtime.runner.transfer import to_device

# Of masks that are kept; a batch that needs more at once gets it. What the host holds of each does not shrink
# with the vocabulary.
_BYTES, _MOST = 64 << 20, 4096


class MaskTable:
    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._words = -(-vocab_size // 32)
        self._device = device
        self._capacity = max(1, min(_MOST, _BYTES // (4 * self._words)))
        self._bits = torch.empty(0, self._words, dtype=torch.int32, device=device)
        # By the identity of the array: its place in the table, and the array, so that the identity stays its
        # own. Used least recently first.
        self._kept: OrderedDict[int, tuple[int, I32]] = OrderedDict()

    def apply(self, scores: Tensor, masks: Masks) -> None:
        """scores [m, vocab_size] of any float dtype: those of tokens that may not be taken become -inf."""
        wanted = {id(bits): bits for bits in masks.bits}
        for key in wanted.keys() & self._kept.keys():
            self._kept.move_to_end(key)
        new = [(key, bits) for key, bits in wanted.items() if key not in self._kept]
        if new:
            self._keep(new, most=len(wanted))
        places = np.array([self._kept[id(bits)][0] for bits in masks.bits])
        where = to_device({"places": places, "rows": masks.rows}, np.int64, self._device)
        apply_token_bitmask(scores, self._bits.index_select(0, where["places"]), where["rows"])

    def _keep(self, new: list[tuple[int, I32]], *, most: int) -> None:
        """Copy masks to the device, over those that were not used for longest; `most` are in use now."""
        if len(self._kept) + len(new) > len(self._bits):
            self._grow(len(self._kept) + len(new), most)
        free = list(range(len(self._kept), len(self._bits)))
        places = []
        for key, bits in new:
            place = free.pop(0) if free else self._kept.popitem(last=False)[1][0]
            self._kept[key] = place, bits
            places.append(place)
        into = to_device({"places": np.array(places)}, np.int64, self._device)["places"]
        packed = to_device({"bits": np.concatenate([bits for _, bits in new])}, np.int32, self._device)
        self._bits.index_copy_(0, into, packed["bits"].view(len(new), self._words))

    def _grow(self, wanted: int, most: int) -> None:
        """Towards `wanted` places as far as the table may be that large, and to `most` in any case."""
        size = max(most, min(self._capacity, max(2 * len(self._bits), wanted)))
        if size > len(self._bits):
            more = self._bits.new_empty(size - len(self._bits), self._words)
            self._bits = torch.cat([self._bits, more])
