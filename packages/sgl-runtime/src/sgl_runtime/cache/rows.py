# SPDX-License-Identifier: Apache-2.0
"""`RowPool`: which rows of the page table nobody owns. A running request has exactly one."""

from __future__ import annotations


class RowPool:
    """A stack of free rows, numbered 0 .. total - 1; low numbers go out first, so a small load stays in few
    rows."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._stack = list(range(total - 1, -1, -1))
        self._is_free = [True] * total

    @property
    def free(self) -> int:
        return len(self._stack)

    @property
    def used(self) -> int:
        return self.total - len(self._stack)

    def take(self) -> int:
        """A row, which is the caller's until it gives it back. The caller checks `free` first."""
        row = self._stack.pop()
        self._is_free[row] = False
        return row

    def give(self, row: int) -> None:
        assert not self._is_free[row], "a row was given back twice"
        self._is_free[row] = True
        self._stack.append(row)
