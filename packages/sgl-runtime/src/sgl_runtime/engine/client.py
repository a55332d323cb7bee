# SPDX-License-Identifier: Apache-2.0
"""`EngineClient`: sends requests to the replicas and brings every delta home to its stream.

Owns what only this side can know exactly: which requests are in flight, and on which replica. Speaks in
messages; whether sockets or a test's script lie behind `Sender` and `Receiver` it does not know.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import msgspec

from sgl_runtime.engine.figures import Figures
from sgl_runtime.engine.flights import Flights
from sgl_runtime.engine.peers import FromPeer, Left, Peers, Question, Reply
from sgl_runtime.engine.request import PreparedRequest, Prompt, Sample, TextOptions
from sgl_runtime.engine.router import Router
from sgl_runtime.engine.stream import Generation, NewDetokenizer, Stream
from sgl_runtime.errors import EngineDied, InvalidRequest, Overloaded, SglError
from sgl_runtime.messages import (
    Abort,
    Aborted,
    Delta,
    Flush,
    Flushed,
    FromReplica,
    Generate,
    Load,
    Message,
    Pooled,
    Profile,
    Profiled,
    Sampling,
    Step,
    new_rid,
)

_PROBE_LOOK_S = 0.05  # how often a probe looks whether somebody else's tokens have answered it
_ANSWER_S = 30.0  # a replica reads its messages between two steps


class Sender(Protocol):
    """One replica's inbox: `channel.Push`."""

    def send(self, message: Message) -> None: ...


class Receiver(Protocol):
    """Where all replicas answer, and other api processes speak: `channel.AsyncPull`."""

    async def receive(self) -> FromReplica | FromPeer: ...


class Observer(Protocol):
    """Is told when a request has ended, however it ended: a log."""

    def write(self, request: PreparedRequest, streams: Sequence[Stream]) -> None:
        """`streams`: of all samples of `request`, by index."""
        ...


class State(msgspec.Struct):
    """What one api process knows that the others do not."""

    pid: int
    figures: Figures
    in_flight: list[int]  # unfinished samples, per replica


class EngineClient:
    """The api process's side of the engine. All methods belong to one event loop."""

    def __init__(
        self,
        replicas: Sequence[Sender],
        answers: Receiver,
        *,
        router: Router,
        rows: int,
        detokenizer: NewDetokenizer | None,
        max_queued: int | None = None,
        stream_interval: int = 1,
        observers: Sequence[Observer] = (),
        peers: Peers | None = None,
    ) -> None:
        """`rows`: samples that all replicas together compute at once; `max_queued`: how many more may wait;
        `detokenizer`: None where answers are token ids; `observers`: are told of every request; `peers`: None
        where this is the only api process.
        """
        self.peers = peers or Peers()
        self.peers.answer("abort", self.abort)
        self.peers.answer("state", lambda name: self._state())
        self.loads = [Load() for _ in replicas]
        self.figures = Figures()
        self._replicas = replicas
        self._answers = answers
        self._router = router
        self.rows = rows
        self._detokenizer = detokenizer
        self._max_queued = max_queued
        self._stream_interval = stream_interval
        self._observers = observers
        self._flights = Flights(len(replicas))
        self._waiting: dict[str, list[Stream]] = {}  # by the rid of the Prompt.first that they wait for
        self._asked: dict[str, asyncio.Future[Flushed | Profiled]] = {}
        self._token_at = [0.0] * len(replicas)  # when each replica last answered anything, time.monotonic
        self._closed: SglError | None = None  # why nothing new is accepted

    # -- requests

    @contextmanager
    def open(self, request: PreparedRequest, *, streaming: bool) -> Iterator[Generation]:
        """Submit, read within the `with`, and abort on leaving it whatever has not ended by then.

        Raises Overloaded beyond max_queued_requests or while draining, InvalidRequest for a rid that is in
        flight, EngineDied when there is nobody to compute.
        """
        generation = self.submit(request, every=self._stream_interval if streaming else 0)
        try:
            yield generation
        finally:
            self._discard(generation)
            for observer in self._observers:
                observer.write(request, generation.streams)

    def submit(self, request: PreparedRequest, *, every: int) -> Generation:
        """Send every sample, or nothing; see `open`, which also cleans up."""
        samples = request.samples
        try:
            if self._closed is not None:
                raise self._closed.with_traceback(None)
            self._check_names(request)
            self._check_queue(len(samples))
        except Overloaded:
            self.figures.refused += 1
            raise
        generation = Generation(samples, self._detokenizer, every=every)
        streams = iter(generation.streams)
        for prompt in request.prompts:
            self._send(prompt, [next(streams) for _ in prompt.samples])
        return generation

    def abort(self, name: str | None = None, *, reason: str = "aborted by request") -> int:
        """End the samples of that name, all if None, as Aborted; return how many there were."""
        streams = self._flights.named(name)
        for stream in streams:
            self._cancel(stream)
            stream.push(Delta(stream.sample.generate.rid, [], Aborted(reason)))
        return len(streams)

    async def abort_everywhere(self, name: str | None) -> int:
        """The same in every api process."""
        return self.abort(name) + sum(await self.peers.ask("abort", name, kind=int))

    async def states(self) -> list[State]:
        """Of all api processes, this one's first."""
        return [self._state(), *await self.peers.ask("state", kind=State)]

    async def flush(self) -> bool:
        """Empty the prefix caches. False: requests were running somewhere, and nothing was emptied there."""
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        answers = await self._ask(Flush)
        return all(isinstance(answer, Flushed) and answer.done for answer in answers)

    async def profile(self, folder: str | None) -> list[Profiled]:
        """Begin a recording on every replica, or with a `folder` end it and write it there; their answers."""
        answers = await self._ask(partial(Profile, folder=folder))
        return [answer for answer in answers if isinstance(answer, Profiled)]

    async def _ask(self, question: Callable[[str], Message]) -> list[Flushed | Profiled]:
        """What the replicas answer to `question(rid)`, in their order. Raises Overloaded if one does not."""
        loop = asyncio.get_running_loop()
        answers: dict[str, asyncio.Future[Flushed | Profiled]] = {
            new_rid(self.peers.home): loop.create_future() for _ in self._replicas
        }
        self._asked.update(answers)
        try:
            for rid, replica in zip(answers, self._replicas, strict=True):
                replica.send(question(rid))
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.gather(*answers.values())
        except TimeoutError:
            raise Overloaded(f"the engine has not answered for {_ANSWER_S:.0f} s") from None
        finally:
            for rid in answers:
                del self._asked[rid]

    async def probe(self, seconds: float) -> None:
        """Return when every replica has produced a token after the call, or a vector. Raises EngineDied
        naming one that has not.

        Each replica gets a request of one token; a replica so busy that it does not come to it in time but
        answers others is healthy, too.
        """
        if self._closed is not None:
            raise self._closed.with_traceback(None)
        asked = time.monotonic()
        samples = [_probe(replica, new_rid(self.peers.home)) for replica in range(len(self._replicas))]
        generation = Generation(samples, None, every=0)
        for replica, stream in enumerate(generation.streams):
            self._flights.enter(stream, replica)
            self._replicas[replica].send(stream.sample.generate)
        answers = asyncio.ensure_future(generation.results())
        try:
            while silent := [replica for replica, at in enumerate(self._token_at) if at < asked]:
                if answers.done():
                    break
                left = asked + seconds - time.monotonic()
                if left <= 0:
                    raise EngineDied(f"replica {silent[0]} has produced no token for {seconds:.0f} s")
                await asyncio.wait([answers], timeout=min(left, _PROBE_LOOK_S))
            if answers.done():
                for output in answers.result():
                    if isinstance(output.finish, Aborted):
                        raise EngineDied(
                            f"replica {output.sample.index} refused a request: {output.finish.reason}"
                        )
        finally:
            answers.cancel()
            self._discard(generation)

    @property
    def in_flight(self) -> list[int]:
        """Unfinished samples, per replica."""
        return list(self._flights.per_replica)

    @property
    def waiting(self) -> int:
        """How many of them are not being computed yet, as far as this side can know."""
        in_flight = len(self._flights)
        # The replicas say how many wait, a few steps late; how many must wait at least is known here at once.
        return max(0, in_flight - self.rows, min(in_flight, sum(load.waiting for load in self.loads)))

    # -- the life of the server

    async def run(self) -> None:
        """Deliver what the replicas send, for ever. Raises what the channel raises."""
        while True:
            match await self._answers.receive():
                case Step() as step:
                    self._deliver(step)
                case Flushed() | Profiled() as said:
                    if (answer := self._asked.get(said.rid)) is not None and not answer.done():
                        answer.set_result(said)
                case Question() | Reply() | Left() as said:
                    self.peers.hear(said)

    def refuse(self, error: SglError) -> None:
        """Accept nothing from now on; what is in flight goes on."""
        self._closed = error

    def fail(self, error: SglError) -> None:
        """There is no engine any more: everything in flight, and everything to come, gets `error`."""
        self.refuse(error)
        for stream in self._flights:
            self._flights.strike(stream)
            self.figures.failed()
            stream.fail(error)
        self._waiting.clear()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(error)

    async def idle(self) -> None:
        """Return when nothing is in flight."""
        await self._flights.empty()

    # -- inside

    def _check_names(self, request: PreparedRequest) -> None:
        taken = self._flights.taken(request.names)
        if taken:
            raise InvalidRequest(
                f"rid: {taken[0]!r} names a request that is in flight: choose another", param="rid"
            )

    def _check_queue(self, more: int) -> None:
        if self._max_queued is None:
            return
        waiting = self.waiting
        free = 0 if waiting else self.rows - len(self._flights)
        if waiting + max(0, more - free) > self._max_queued:
            raise Overloaded(
                f"{waiting} requests are waiting and this one brings {more} more, of at most"
                f" {self._max_queued} (--max-queued-requests): try again later"
            )

    def _send(self, prompt: Prompt, streams: list[Stream]) -> None:
        replica = self._router.choose(self._flights.per_replica)
        first = prompt.first
        for stream in streams:
            names = (stream.sample.id, stream.sample.rid)
            self._flights.enter(stream, replica, names, awaits=None if first is None else first.rid)
        if first is None:
            for stream in streams:
                self._replicas[replica].send(stream.asked())
        else:
            self._waiting[first.rid] = streams
            self._replicas[replica].send(first)

    def _cancel(self, stream: Stream) -> None:
        """Nobody reads this stream any more: free what it holds, here and on its replica."""
        flight = self._flights.strike(stream)
        if flight is None:
            return
        if flight.names:
            self.figures.aborted()
        if flight.awaits is None:
            self._replicas[flight.replica].send(Abort(stream.sample.generate.rid))
            return
        waiting = self._waiting[flight.awaits]
        waiting.remove(stream)
        if not waiting:
            del self._waiting[flight.awaits]
            self._replicas[flight.replica].send(Abort(flight.awaits))

    def _discard(self, generation: Generation) -> None:
        for stream in generation.streams:
            self._cancel(stream)

    def _state(self) -> State:
        return State(os.getpid(), self.figures, self.in_flight)

    def _deliver(self, step: Step) -> None:
        now = time.monotonic()
        if step.load.generated_tokens > self.loads[step.replica].generated_tokens:
            self._token_at[step.replica] = now  # for this api process or another
        self.loads[step.replica] = step.load
        self.figures.waited(step.waits.values())
        for rid, wait in step.waits.items():
            if (flight := self._flights.get(rid)) is not None:
                flight.stream.times.queued = wait
        for delta in step.deltas:
            if delta.rid in self._waiting:
                self._deliver_first(delta)
            elif (flight := self._flights.get(delta.rid)) is not None:
                if delta.tokens or isinstance(delta.finish, Pooled):
                    self._token_at[flight.replica] = now
                if delta.finish is not None:
                    self._flights.strike(flight.stream)
                if flight.names:
                    self.figures.heard(flight.stream.times, delta, now)
                flight.stream.push(delta)
            # else: its reader left, and the Abort and this delta have crossed

    def _deliver_first(self, delta: Delta) -> None:
        """The prompt is computed: now its samples can share it."""
        if delta.finish is None:
            return
        for stream in self._waiting.pop(delta.rid):
            rid = stream.sample.generate.rid
            if isinstance(delta.finish, Aborted):
                self._flights.strike(stream)
                self.figures.heard(stream.times, delta, time.monotonic())
                stream.push(Delta(rid, [], delta.finish))
            else:
                flight = self._flights.get(rid)
                assert flight is not None, "who waits is in flight"
                flight.awaits = None
                stream.inherit(delta)
                self._replicas[flight.replica].send(stream.asked())


def _probe(replica: int, rid: str) -> Sample:
    """One greedy token after token 0, which every vocabulary has."""
    generate = Generate(rid, [0], Sampling(max_new_tokens=1, temperature=0.0))
    return Sample(index=replica, id=rid, rid=rid, generate=generate, text=TextOptions())
