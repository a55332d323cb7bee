# SPDX-License-Identifier: Apache-2.0
"""What an event loop hears of in one turn: of many requests that come at once, the first go their way first.

asyncio takes a step of everything that is ready before the next step of anything. Of 32 requests at once the
first would reach its replica when nearly all have been read, and the device waits meanwhile.
"""

from __future__ import annotations

import asyncio
import selectors
from collections import deque

_FEW = 4  # a turn costs some 10 us, a request's way to its replica 300


class FewAtATime(selectors.DefaultSelector):
    """Reports at most `_FEW` of what is ready at a time, in the order in which it was found to be."""

    def __init__(self) -> None:
        super().__init__()
        self._found: deque[tuple[selectors.SelectorKey, int]] = deque()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector's. What has been unregistered or modified since it was found is looked for anew."""
        registered = self.get_map()
        few: list[tuple[selectors.SelectorKey, int]] = []
        while not few:
            if not self._found:
                self._found.extend(super().select(timeout))
                if not self._found:
                    return []
            while self._found and len(few) < _FEW:
                key, events = self._found.popleft()
                if registered.get(key.fd) is key:
                    few.append((key, events))
        return few


def new_loop() -> asyncio.AbstractEventLoop:
    """A loop that hears of few things at a time."""
    return asyncio.SelectorEventLoop(FewAtATime())
