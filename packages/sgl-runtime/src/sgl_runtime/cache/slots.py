# SPDX-License-Identifier: Apache-2.0
"""`SlotPool`: which KV slots nobody owns.

A slot is room for the keys and values of one token in every layer. It is in the pool, or in the prefix cache,
or held by one running request. The pool does not know what is in a slot, and giving one back does not touch
the device.
"""

from __future__ import annotations

import numpy as np

from sgl_runtime.messages import I32


class SlotPool:
    """A stack of free slots, numbered 0 .. total - 1. A fresh pool hands out ascending runs."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = total
        self._stack: I32 = np.arange(total - 1, -1, -1, dtype=np.int32)
        self._is_free = np.ones(total, np.bool_)

    def take(self, count: int) -> I32:
        """`count` slots, [count], the caller's until it gives them back. The caller checks `free` first."""
        assert 0 <= count <= self.free, f"{count} slots wanted, {self.free} free"
        top = self.free - count
        slots = self._stack[top : self.free][::-1].copy()
        self._is_free[slots] = False
        self.free = top
        return slots

    def give(self, slots: I32) -> None:
        """Take slots back, in any order; they may be handed out again at once."""
        assert not self._is_free[slots].any(), "a slot was given back twice"
        top = self.free + len(slots)
        assert top <= self.total, "more slots given back than there are"
        self._stack[self.free : top] = slots[::-1]
        self._is_free[slots] = True
        self.free = top
