# SPDX-License-Identifier: Apache-2.0
"""Messages arrive whole and in order; a fan-out loses nothing, not even for a follower that comes late."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from sgl_runtime.channel import AsyncPull, Fanout, Pull, Push, Tap
from sgl_runtime.errors import EngineDied
from sgl_runtime.messages import Abort, Halt, ToFollower, ToReplica


def test_push_pull_keeps_the_order(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/a"
    pull: Pull[ToReplica] = Pull(address, ToReplica)
    push = Push(address)
    sent = [Abort(str(n)) for n in range(1000)]
    for message in sent:
        push.send(message)
    received: list[ToReplica] = []
    while len(received) < len(sent):
        assert pull.wait(5)
        received += pull.drain()
    assert received == sent
    assert pull.drain() == [] and not pull.wait(0)
    push.close()
    pull.close()


def test_a_sender_may_come_before_its_receiver(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/a"
    push = Push(address)
    push.send(Abort("early"))
    pull: Pull[ToReplica] = Pull(address, ToReplica)
    assert pull.wait(5) and pull.drain() == [Abort("early")]
    push.close()
    pull.close()


def test_async_pull(tmp_path: Path) -> None:
    async def receive() -> ToReplica:
        pull: AsyncPull[ToReplica] = AsyncPull(address, ToReplica)
        push = Push(address)
        push.send(Abort("r"))
        try:
            return await asyncio.wait_for(pull.receive(), 5)
        finally:
            push.close()
            pull.close()

    address = f"ipc://{tmp_path}/a"
    assert asyncio.run(receive()) == Abort("r")


def test_fanout_reaches_every_follower_from_the_first_message_on(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/leader"
    received: dict[int, list[ToFollower]] = {0: [], 1: []}

    def follow(index: int) -> None:
        tap: Tap[ToFollower] = Tap(address, ToFollower)
        received[index] = [tap.receive() for _ in range(3)]
        tap.close()

    threads = [threading.Thread(target=follow, args=(index,)) for index in received]
    threads[0].start()  # before the leader exists
    fanout = Fanout(address)
    threads[1].start()
    fanout.gather(2, seconds=5)
    for _ in range(3):
        fanout.send(Halt())
    for thread in threads:
        thread.join(5)
    fanout.close()
    assert received == {0: [Halt()] * 3, 1: [Halt()] * 3}


def test_a_missing_follower_is_an_error_not_a_hang(tmp_path: Path) -> None:
    fanout = Fanout(f"ipc://{tmp_path}/leader")
    with pytest.raises(EngineDied, match="0 of 1 followers"):
        fanout.gather(1, seconds=0.01)
    fanout.close()
