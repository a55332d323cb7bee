# SPDX-License-Identifier: Apache-2.0
"""`Share`: how many lines of batches may be under way, so that a client on the line notices nothing of them.

The engine computes `rows` samples at once. Lines take what is left of three quarters of them, so that a
request that comes finds a row free, and none while anybody waits: memory may end before the rows do, and
prompts take steps. What waits is known a step late, so the number of lines begins small and grows by one with
each that ends; it falls to what is under way when somebody waits.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sgl_runtime.engine.client import EngineClient

_FIRST = 16  # lines before anything is known
_LOOK_S = 0.05  # how often others' requests are looked at while lines have to wait


class Share:
    def __init__(self, client: EngineClient) -> None:
        self.lines = 0  # under way
        self._client = client
        self._most = max(1, client.rows * 3 // 4)
        self._window = min(_FIRST, self._most)
        self._left = asyncio.Event()
        self._turn = asyncio.Lock()  # lines of several batches take turns

    async def enter(self) -> None:
        """Return when one more line may begin; it must `leave`."""
        async with self._turn:
            while not self._free():
                self._left.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await self._left.wait()
            self.lines += 1

    def leave(self) -> None:
        self.lines -= 1
        self._left.set()
        if self._client.waiting == 0:
            self._window = min(self._window + 1, self._most)

    @property
    def alone(self) -> bool:
        """A line under way has the server to itself."""
        return self.lines == 1 and sum(self._client.in_flight) == 0

    def _free(self) -> bool:
        if self._client.waiting:
            self._window = max(1, min(self._window, self.lines))
            return False
        return self.lines < self._window and sum(self._client.in_flight) < self._most
