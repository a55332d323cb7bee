# SPDX-License-Identifier: Apache-2.0
"""`Progress`: a line on standard error that says how far a batch is. Knows nothing of what is counted."""

from __future__ import annotations

import sys
import time

_WIDTH = 30  # of the bar, in characters
_EVERY_S = 0.1


class Progress:
    """A bar from 0 to `total`; `shown` False makes it silent."""

    def __init__(self, total: int, *, shown: bool) -> None:
        self._total = total
        self._shown = shown
        self._began = time.monotonic()
        self._drawn = 0.0

    def update(self, done: int) -> None:
        """So many are done."""
        now = time.monotonic()
        if not self._shown or (now - self._drawn < _EVERY_S and done < self._total):
            return
        self._drawn = now
        filled = _WIDTH * done // max(self._total, 1)
        rate = done / max(now - self._began, 1e-9)
        bar = "#" * filled + "." * (_WIDTH - filled)
        sys.stderr.write(f"\r{done}/{self._total} [{bar}] {rate:.1f}/s")
        sys.stderr.flush()

    def close(self) -> None:
        """Leave the line."""
        if self._shown:
            sys.stderr.write("\n")
            sys.stderr.flush()
