# SPDX-License-Identifier: Apache-2.0
"""What an event loop hears of in one turn."""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from sgl_runtime.http.turns import FewAtATime, new_loop

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        made = [socket.socketpair() for _ in range(10)]
        for end in (end for pair in made for end in pair):
            end.setblocking(False)
            stack.enter_context(closing(end))
        yield made


@pytest.fixture
def selector(pairs: list[Pair]) -> Iterator[FewAtATime]:
    """Looks at one end of each pair, whose other end has spoken."""
    with closing(FewAtATime()) as few:
        for number, (here, there) in enumerate(pairs):
            few.register(here, selectors.EVENT_READ, number)
            there.send(b".")
        yield few


def _heard(selector: FewAtATime, pairs: list[Pair]) -> list[int]:
    """Of one call; it is read as well."""
    numbers = [key.data for key, _ in selector.select(0)]
    for number in numbers:
        pairs[number][0].recv(1)
    return numbers


def test_everything_is_heard_once_and_few_at_a_time(selector: FewAtATime, pairs: list[Pair]) -> None:
    heard = [_heard(selector, pairs) for _ in range(4)]
    assert [len(few) for few in heard] == [4, 4, 2, 0]
    assert sorted(number for few in heard for number in few) == list(range(10))


def test_who_speaks_meanwhile_waits_for_those_before(selector: FewAtATime, pairs: list[Pair]) -> None:
    first = _heard(selector, pairs)
    pairs[first[0]][1].send(b".")
    rest = [number for _ in range(4) for number in _heard(selector, pairs)]
    assert sorted(rest[:6]) == sorted(set(range(10)) - set(first))
    assert rest[6:] == first[:1]


def test_what_is_no_longer_looked_at_is_not_heard(selector: FewAtATime, pairs: list[Pair]) -> None:
    first = _heard(selector, pairs)
    gone, changed, *others = sorted(set(range(10)) - set(first))
    selector.unregister(pairs[gone][0])
    selector.modify(pairs[changed][0], selectors.EVENT_READ, changed)
    rest = [number for _ in range(4) for number in _heard(selector, pairs)]
    assert sorted(rest) == [changed, *others]


def test_silence_is_waited_for_once(selector: FewAtATime, pairs: list[Pair]) -> None:
    for here, _ in pairs[4:]:
        selector.unregister(here)
    assert len(_heard(selector, pairs)) == 4
    assert selector.select(0.01) == []


def test_the_first_of_many_is_through_before_the_last_begins(pairs: list[Pair]) -> None:
    steps: list[str] = []

    async def go(end: socket.socket) -> None:
        await asyncio.get_running_loop().sock_recv(end, 1)
        steps.append("begins")
        await asyncio.sleep(0)
        steps.append("is through")

    async def everybody() -> None:
        going = [asyncio.create_task(go(here)) for here, _ in pairs]
        await asyncio.sleep(0)
        for _, there in pairs:
            there.send(b".")
        await asyncio.gather(*going)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(everybody())
    assert steps.index("is through") < len(steps) - 1 - steps[::-1].index("begins")
