# SPDX-License-Identifier: Apache-2.0
"""The loop of a replica's rank 0: receive, plan, send the plan to the followers, compute, commit, answer.

With overlap, step i+1 is planned and launched before the tokens of step i are read back: the device never
waits for Python. Where a grammar limits what step i+1 may sample, step i is read and committed between its
model and its sampler. Both orders give the same output; the scheduler's tests prove it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sgl_runtime.channel import Fanout, Pull, Push
from sgl_runtime.messages import (
    Abort,
    Batch,
    Delta,
    Flush,
    Flushed,
    Generate,
    Halt,
    Masks,
    Result,
    Step,
    ToReplica,
)
from sgl_runtime.scheduler.scheduler import Scheduler

_IDLE_SECONDS = 3600.0  # how long to sleep for a message; any message wakes the loop at once
_COMPILING_SECONDS = 0.001  # the same when nothing can be computed until a grammar is compiled


class Pending(Protocol):
    """A pass that was launched."""

    def result(self) -> Result: ...


class Forward(Protocol):
    """What the leader needs of a runner."""

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> Pending: ...


class Leader:
    """Drives one scheduler and one runner, and speaks for both."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Forward,
        inbox: Pull[ToReplica],
        outbox: Push,
        *,
        replica: int,
        followers: Fanout | None,
        overlap: bool,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._inbox = inbox
        self._outbox = outbox
        self._replica = replica
        self._followers = followers
        self._overlap = overlap
        self._launched: Pending | None = None
        self._deltas: list[Delta] = []  # of this turn

    def run(self) -> None:
        """Serve until the process is terminated; the followers are told to halt however it ends."""
        self._outbox.send(Step([], self._scheduler.load, self._replica))
        try:
            while True:
                if self._scheduler.idle and self._launched is None:
                    self._inbox.wait(_IDLE_SECONDS)
                self.step()
        finally:
            if self._followers is not None:
                self._followers.send(Halt())

    def step(self) -> None:
        """One turn of the loop: at most one pass is launched and at most one committed."""
        heard = self._receive()
        batch = self._scheduler.plan()
        if batch is None and self._launched is None and self._scheduler.compiling:
            self._inbox.wait(_COMPILING_SECONDS)
        if batch is not None and self._followers is not None:
            self._followers.send(batch)
        launched = self._runner.forward(batch, self._masks) if batch is not None else None
        self._commit_launched()
        self._launched = launched
        if not self._overlap:
            self._commit_launched()
        deltas = self._deltas + self._scheduler.take_deltas()
        self._deltas = []
        if deltas or heard:
            self._outbox.send(Step(deltas, self._scheduler.load, self._replica))

    def _masks(self) -> Masks | None:
        """For the batch that is being launched; its model runs already."""
        if not self._scheduler.constrained:
            return None
        self._commit_launched()
        return self._scheduler.masks()

    def _commit_launched(self) -> None:
        if self._launched is not None:
            self._deltas += self._scheduler.commit(self._launched.result())
            self._launched = None

    def _receive(self) -> bool:
        messages = self._inbox.drain()
        for message in messages:
            match message:
                case Generate():
                    self._scheduler.add(message)
                case Abort():
                    self._scheduler.abort(message.rid)
                case Flush():
                    self._outbox.send(Flushed(message.rid, self._scheduler.flush()))
        return bool(messages)
