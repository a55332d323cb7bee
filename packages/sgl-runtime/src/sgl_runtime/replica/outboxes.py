# SPDX-License-Identifier: Apache-2.0
"""`Outboxes`: one replica's answers, each to the api process that asked.

All of them hear the load of every step that says anything, since each one reports it and routes by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sgl_runtime.messages import Delta, Flushed, Message, Profiled, Step, home_of


class Outbox(Protocol):
    """`channel.Push`."""

    def send(self, message: Message) -> None: ...


class Outboxes:
    """An outbox for each api process, by number, as one."""

    def __init__(self, outboxes: Sequence[Outbox]) -> None:
        self._outboxes = outboxes

    def send(self, message: Message) -> None:
        match message:
            case Step() as step:
                self._share(step)
            case Flushed(rid=rid) | Profiled(rid=rid):
                self._outboxes[home_of(rid)].send(message)

    def _share(self, step: Step) -> None:
        shares: list[list[Delta]] = [[] for _ in self._outboxes]
        for delta in step.deltas:
            shares[home_of(delta.rid)].append(delta)
        for home, outbox in enumerate(self._outboxes):
            waits = {rid: wait for rid, wait in step.waits.items() if home_of(rid) == home}
            outbox.send(Step(shares[home], step.load, step.replica, waits))
