# SPDX-License-Identifier: Apache-2.0
"""How many lines of batches begin, beside traffic of all kinds."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from served import settle

from sgl_runtime.http.openai.batches.share import Share

pytestmark = pytest.mark.anyio


class Engine:
    """What a share asks of the client; lines are computed from the moment they begin."""

    def __init__(self, rows: int, others: int = 0) -> None:
        self.rows = rows
        self.others = others
        self.waiting = 0
        client: Any = self
        self.share = Share(client)

    @property
    def in_flight(self) -> list[int]:
        return [self.others, self.share.lines if hasattr(self, "share") else 0]

    async def begin(self) -> int:
        """As many lines as may begin now."""
        entering = asyncio.create_task(self._enter())
        await settle()
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        return self.share.lines

    async def _enter(self) -> None:
        while True:
            await self.share.enter()

    def end(self, lines: int) -> None:
        for _ in range(lines):
            self.share.leave()


@pytest.mark.parametrize(
    ("rows", "others", "lines"),
    [(1, 0, 1), (1, 1, 0), (8, 0, 6), (8, 4, 2), (8, 6, 0), (100, 0, 16), (100, 70, 5)],
)
async def test_a_quarter_of_the_rows_stays_free(rows: int, others: int, lines: int) -> None:
    assert await Engine(rows, others).begin() == lines


async def test_none_begins_while_somebody_waits() -> None:
    engine = Engine(100)
    engine.waiting = 1
    assert await engine.begin() == 0


async def test_the_number_grows_while_nobody_waits_and_falls_to_what_is_under_way() -> None:
    engine = Engine(100)
    for expected in (16, 32, 64, 75, 75):
        lines = await engine.begin()
        assert lines == expected
        engine.end(lines)
    assert await engine.begin() == 75
    engine.waiting = 3
    engine.end(70)
    assert await engine.begin() == 5
    engine.waiting = 0
    assert await engine.begin() == 5
    engine.end(2)
    assert await engine.begin() == 7


async def test_who_waits_for_a_place_is_woken_by_one_that_ends() -> None:
    engine = Engine(8)
    assert await engine.begin() == 6
    entering = asyncio.create_task(engine.share.enter())
    await settle()
    engine.end(1)
    await settle()
    assert entering.done()
