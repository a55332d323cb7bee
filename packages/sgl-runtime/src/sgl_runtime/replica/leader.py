# SPDX-License-Identifier: Apache-2.0
"""The loop of a replica's rank 0: receive, plan, send the plan to the followers, compute, commit, answer.

With overlap, step i+1 is planned and launched before the tokens of step i are read back: the device never
waits for Python. Where a grammar limits what step i+1 may sample, step i is read and committed between its
model and its sampler. Both orders give the same output; the scheduler's tests prove it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from sgl_runtime.channel import Fanout
from sgl_runtime.messages import (
    Abort,
    Batch,
    Delta,
    Flush,
    Flushed,
    Generate,
    Halt,
    Masks,
    Message,
    Profile,
    Profiled,
    Result,
    Step,
    ToReplica,
)
from sgl_runtime.profile.report import write_report
from sgl_runtime.profile.spans import OFF, Laps, Phase, Recording, Spans
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.spare import QUIET_S

_IDLE_SECONDS = 3600.0  # how long to sleep for a message; any message wakes the loop at once
_COMPILING_SECONDS = 0.001  # the same when nothing can be computed until a grammar is compiled


class Pending(Protocol):
    """A pass that was launched. failed: requests of its batch that cannot be computed."""

    @property
    def failed(self) -> Sequence[int]: ...

    def result(self) -> Result: ...


class Forward(Protocol):
    """Computes."""

    def forward(self, batch: Batch, masks: Callable[[], Masks | None]) -> Pending: ...


class Runner(Forward, Protocol):
    """What the leader needs of a runner."""

    def record(self, laps: Laps) -> None: ...


class Inbox(Protocol):
    """Where requests come from: `channel.Pull`."""

    def drain(self) -> Sequence[ToReplica]: ...

    def wait(self, seconds: float) -> bool: ...


class Outbox(Protocol):
    """Where answers go: `channel.Push`."""

    def send(self, message: Message) -> None: ...


Clock = Callable[[Spans], Forward]  # the runner, with the device's passes timed: `device_clock.DeviceClock`


class Leader:
    """Drives one scheduler and one runner, and speaks for both."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        inbox: Inbox,
        outbox: Outbox,
        *,
        replica: int,
        followers: Fanout | None,
        overlap: bool,
        clock: Clock | None = None,
        rest: Callable[[], None] | None = None,
    ) -> None:
        """`followers`: the other ranks; `clock`: None where `forward` returns when the pass has ended;
        `rest`: called once whenever nothing has been asked for a while."""
        self._scheduler = scheduler
        self._runner = runner
        self._inbox = inbox
        self._outbox = outbox
        self._replica = replica
        self._followers = followers
        self._overlap = overlap
        self._launched: Pending | None = None
        self._deltas: list[Delta] = []  # of this turn
        self._clock = clock
        self._rest = rest
        self._forward = runner.forward
        self._spans: Spans | None = None  # of the steps to come
        self._recording: Recording = OFF  # of this one
        self._turns = 0
        self._asleep = False

    @property
    def idle(self) -> bool:
        """Nothing is to be done before a message comes."""
        return self._scheduler.idle and self._launched is None

    @property
    def turns(self) -> int | None:
        """How many it has taken; None while it sleeps. Any thread may ask."""
        return None if self._asleep else self._turns

    def run(self) -> None:
        """Serve until the process is terminated; the followers are told to halt however it ends."""
        self._outbox.send(Step([], self._scheduler.load, self._replica))
        try:
            while True:
                if self.idle:
                    self._asleep = True
                    self._sleep()
                    self._asleep = False
                self.step()
        finally:
            if self._followers is not None:
                self._followers.send(Halt())

    def _sleep(self) -> None:
        """Until a message comes."""
        if not self._inbox.wait(QUIET_S):
            if self._rest is not None:
                self._rest()
            self._inbox.wait(_IDLE_SECONDS)

    def step(self) -> None:
        """One turn of the loop: at most one pass is launched and at most one committed."""
        recording = self._recording = OFF if self._spans is None else self._spans
        recording.begin()
        self._turns += 1
        heard = self._receive()
        recording.lap(Phase.RECEIVE)
        batch = self._scheduler.plan()
        recording.lap(Phase.PLAN)
        if batch is None and self._launched is None and self._scheduler.compiling:
            self._inbox.wait(_COMPILING_SECONDS)
            recording.lap(Phase.WAIT)
        launched = None if batch is None else self._launch(batch)
        self._commit_launched()
        self._launched = launched
        if not self._overlap:
            self._commit_launched()
        deltas = self._deltas + self._scheduler.take_deltas()
        self._deltas = []
        if deltas or heard:
            waits = self._scheduler.take_waits()
            self._outbox.send(Step(deltas, self._scheduler.load, self._replica, waits))
            recording.lap(Phase.SEND)
        recording.end()

    def start_profile(self) -> None:
        """Record from the next step on where its time goes; not while a recording is under way."""
        assert self._spans is None, "one recording at a time"
        self._spans = Spans()
        self._runner.record(self._spans)
        if self._clock is not None:
            self._forward = self._clock(self._spans).forward

    def stop_profile(self, folder: Path) -> tuple[Path, str]:
        """End the recording; the trace's file and the table, both written into `folder`. Raises OSError."""
        spans, self._spans = self._spans, None
        assert spans is not None, "a recording is under way"
        self._runner.record(OFF)
        self._forward = self._runner.forward
        return write_report(folder, f"replica{self._replica}", spans)

    def _launch(self, batch: Batch) -> Pending:
        if self._followers is not None:
            self._followers.send(batch)
            self._recording.lap(Phase.FANOUT)
        self._recording.launched(batch)
        launched = self._forward(batch, self._masks)
        if launched.failed:
            self._scheduler.fail(launched.failed)
        self._recording.lap(Phase.LAUNCH)
        return launched

    def _masks(self) -> Masks | None:
        """For the batch that is being launched; its model runs already."""
        if not self._scheduler.constrained:
            return None
        self._recording.lap(Phase.LAUNCH)
        self._commit_launched()
        masks = self._scheduler.masks()
        self._recording.lap(Phase.MASK)
        return masks

    def _commit_launched(self) -> None:
        if self._launched is not None:
            result = self._launched.result()
            self._recording.lap(Phase.WAIT)
            self._deltas += self._scheduler.commit(result)
            self._recording.lap(Phase.COMMIT)
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
                    done = self._scheduler.flush()
                    # Whoever hears of it asks next what is held: the load comes first.
                    self._outbox.send(Step([], self._scheduler.load, self._replica))
                    self._outbox.send(Flushed(message.rid, done))
                case Profile():
                    self._outbox.send(self._profile(message))
        return bool(messages)

    def _profile(self, message: Profile) -> Profiled:
        if message.folder is None:
            if self._spans is not None:
                return Profiled(message.rid, error="a profile is being recorded already", conflict=True)
            self.start_profile()
            return Profiled(message.rid)
        if self._spans is None:
            return Profiled(message.rid, error="no profile is being recorded", conflict=True)
        try:
            trace, table = self.stop_profile(Path(message.folder))
        except OSError as error:
            return Profiled(message.rid, error=f"the profile could not be written: {error}")
        return Profiled(message.rid, str(trace), table)
