# SPDX-License-Identifier: Apache-2.0
"""The scheduler and its one rule: in every step, `computed` catches up with the tokens that there are.

    prompt             far behind: computes as much as the budgets allow, and samples when it has caught up
    chunk of a prompt  not caught up yet: samples nothing
    prefix cache hit   starts with `computed` at what the cache has
    decode             one token behind
    retraction         `computed` back to 0, the request to the front of the line, its tokens to the cache
    max_new_tokens=0   catches up with the prompt and ends
    vectors            of a model that pools: ends where the first token would have been sampled
    jump               several tokens behind, since a grammar has left no choice about them

Who goes when is decided by `policy` (order of the line) and `admission` (how far down it), the shape of a
pass by `batch`. Batches hold prompts and decoding requests, or, if they are not to be mixed, prompts alone
while there are any.

Overlap: step i + 1 may be planned before the result of step i is committed. It is sound because the device
executes batches in the order in which they were planned. Therefore
  - a slot or row may be given away as soon as nothing planned later reads it for its old owner, even if a
    batch in flight still does: what commit(i) frees, after plan(i + 1), is written by plan(i + 2) or later;
  - what a planned batch computes is in the prefix cache for all later ones, from the moment it is planned;
  - a token in flight is -1 in `Batch.tokens`, and the surplus token of a request that turns out to have ended
    is dropped in commit; so is the one that was being sampled where a jump has put another.
A constrained row needs its mask before its token is sampled, not before its pass is launched: `masks` is
asked in between, when all passes before are committed.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Collection, Iterable

import numpy as np

from sgl_runtime.cache.prefix import PrefixCache
from sgl_runtime.messages import (
    I32,
    Aborted,
    Batch,
    Capacity,
    Delta,
    Finish,
    Generate,
    Load,
    Masks,
    Pooled,
    Result,
    SharedRun,
    StoppedByConstraint,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)
from sgl_runtime.scheduler.batch import Chunk, Planned, build
from sgl_runtime.scheduler.bias import Bias
from sgl_runtime.scheduler.constraint import Encode, Grammars
from sgl_runtime.scheduler.forecast import Forecast
from sgl_runtime.scheduler.guidance import Guidance
from sgl_runtime.scheduler.intake import Intake
from sgl_runtime.scheduler.line import Line
from sgl_runtime.scheduler.memory import Memory
from sgl_runtime.scheduler.outputs import (
    INVALID_TOKEN,
    Entry,
    collect_scores,
    delta,
    no_memory,
    no_valid_token,
    tell,
    vector_of,
)
from sgl_runtime.scheduler.policy import load_policy, overdue_at
from sgl_runtime.scheduler.request import Request, out_of_memory, refusal
from sgl_runtime.scheduler.scores import PromptScores
from sgl_runtime.scheduler.sharing import Sharing
from sgl_runtime.scheduler.stats import Counters
from sgl_runtime.scheduler.stop import Stop, TokenBytes

_NONE: I32 = np.empty(0, np.int32)
_RECONSIDER = 64  # steps after which somebody may fit although nothing has ended: the forecast has changed
_RUNWAY = 20  # steps that a retraction makes room for, so that the next one is not due at once


class Scheduler:
    """Of one replica. Not thread-safe; no method blocks."""

    def __init__(
        self,
        capacity: Capacity,
        cache: PrefixCache,
        *,
        eos: Collection[int] = (),
        vocabulary: TokenBytes | None = None,
        grammars: Grammars | None = None,
        encode: Encode | None = None,
        disable_regex_jump_forward: bool = False,
        chunked_prefill_size: int = 8192,
        max_prefill_tokens: int = 16384,
        enable_mixed_chunk: bool = True,
        shared_least: int | None = None,
        schedule_policy: str = "lpm",
        schedule_conservativeness: float = 1.0,
        max_queued_requests: int | None = None,
        seed: int = 0,
    ) -> None:
        """Options as in `ServeConfig`. `vocabulary`: for stop strings; `grammars` and `encode`, the model's
        tokenizer: for constraints; `shared_least`: of prefixes of so many tokens say which requests begin
        with them, None: of none; `seed`: of the random policy alone.
        """
        self._capacity = capacity
        self._pools = capacity.answers != "text"
        self._memory = Memory(capacity, cache)
        self._eos = frozenset(eos)
        self._eos_array = np.array(sorted(self._eos), np.int32)
        self._vocabulary = vocabulary
        jump = not disable_regex_jump_forward
        self._guidance = Guidance(grammars, encode, jump=jump, slots=capacity.slots)
        self._mixed = enable_mixed_chunk
        self._sharing = None if shared_least is None else Sharing(self._memory, shared_least)
        self._max_queued = max_queued_requests
        self._forecast = Forecast(capacity.slots, schedule_conservativeness)
        self._counters = Counters()
        self._line = Line(load_policy(schedule_policy, cache), cache)
        self._intake = Intake(
            self._memory,
            self._line,
            self._forecast,
            self._counters,
            chunk=chunked_prefill_size if chunked_prefill_size > 0 else None,
            budget=max_prefill_tokens,
        )
        self._requests: dict[str, Request] = {}  # all that have not ended
        self._edited: list[Request] = []  # penalised, and have jumped since the last plan
        self._in_flight: deque[Planned] = deque()
        self._deltas: list[Delta] = []
        self._arrivals = 0
        self._lots = random.Random(seed)

    # ------------------------------------------------------------------------------------------ requests

    def add(self, message: Generate) -> None:
        """Put a request in the line, or refuse it: then its only Delta, `Aborted`, is in `take_deltas`."""
        assert message.rid not in self._requests, f"request id {message.rid} is in use"
        refused = self._refusal(message)
        if refused is not None:
            self._deltas.append(Delta(message.rid, [], refused))
            return
        request = self._request(message)
        self._requests[request.rid] = request
        constraint = message.sampling.constraint
        if constraint is not None and request.samples:
            self._guidance.wait(request, constraint)
        else:
            self._line.join(request)
            self._intake.reconsider()

    def abort(self, rid: str) -> None:
        """Forget a request, whatever its state; its slots are free at once. Unknown ids are ignored."""
        if (request := self._requests.get(rid)) is not None:
            self._end(request, Aborted("aborted by its sender"))

    def flush(self) -> bool:
        """Empty the prefix cache. Does nothing and returns False while requests run or wait."""
        if self._requests:
            return False
        self._memory.flush()
        return True

    def take_deltas(self) -> list[Delta]:
        """What is to be told that came with no result: refusals, and ends found while planning."""
        deltas, self._deltas = self._deltas, []
        return deltas

    @property
    def idle(self) -> bool:
        """Nothing to plan and nothing to commit."""
        return not self._requests and not self._in_flight

    @property
    def compiling(self) -> bool:
        """Requests wait for their grammars: there may be something to plan though nobody sends anything."""
        return len(self._guidance) > 0

    @property
    def load(self) -> Load:
        memory, counters, grammars = self._memory, self._counters, self._guidance.grammars
        return Load(
            running=memory.rows.used,
            waiting=len(self._line) + len(self._guidance),
            slots=memory.total,
            slots_used=memory.used,
            slots_cached=memory.cache.evictable,
            prompt_tokens=counters.prompt_tokens,
            cached_tokens=counters.cached_tokens,
            generated_tokens=counters.generated_tokens,
            retractions=counters.retractions,
            steps=counters.steps,
            forced_tokens=counters.forced_tokens,
            grammars_compiled=0 if grammars is None else grammars.compiled,
            grammars_failed=0 if grammars is None else grammars.failed,
            grammar_hits=0 if grammars is None else grammars.hits,
            grammar_seconds=0.0 if grammars is None else grammars.seconds,
        )

    def take_waits(self) -> dict[str, float]:
        """Seconds that requests waited before they were first admitted, of those admitted since the last
        call."""
        return self._counters.take_waits()

    # ---------------------------------------------------------------------------------------------- step

    def plan(self) -> Batch | None:
        """The next pass. At most one batch may be uncommitted when this is called.

        None, with a batch in flight: commit it, then ask again. None without: nothing runs, and nothing waits
        but for a grammar.
        """
        assert len(self._in_flight) < 2, "one step of overlap, no more"
        self._begin_constrained()
        while True:
            rows, slots, jumped, chunks = self._choose()
            if len(rows) or jumped or chunks:
                break
            # Memory is short, or all that runs waits for its last token. What is in flight may end requests,
            # and waiting for it costs a fraction of a step where a retraction costs a prompt: only with
            # nothing in flight, when all tokens are known, is anything taken from a request.
            if self._in_flight or not self._memory.rows.used:
                return None
            self._make_room()
        edited = [request for request in self._edited if request.running]
        self._edited.clear()
        runs: tuple[SharedRun, ...] = ()
        if self._sharing is not None and len(rows) > 1:
            rows, runs = self._sharing.arrange(rows)
        batch, step = build(self._memory.table, rows, slots, jumped + chunks, edited, runs)
        self._in_flight.append(step)
        if chunks:
            for chunk in chunks:
                self._memory.share(chunk.request)
            self._intake.advance()
        return batch

    @property
    def constrained(self) -> bool:
        """The batch planned last has rows that take only tokens of a mask."""
        return bool(self._in_flight) and bool(self._in_flight[-1].constrained)

    def masks(self) -> Masks | None:
        """What the constrained rows of the batch planned last may take; the batches before are committed.

        A row without a mask belongs to a request that has ended or jumped meanwhile: its token is void.
        """
        assert len(self._in_flight) == 1, "a mask follows from the token before"
        step = self._in_flight[-1]
        table = self._memory.table
        rows: list[int] = []
        bits: list[I32] = []
        for index in step.constrained:
            row = step.rows[index]
            request = table.requests[row]
            if request is None or table.owner[row] != step.owners[index]:
                continue
            mask = self._guidance.mask(request)
            if isinstance(mask, Aborted):
                self._end(request, mask)
                self._deltas.append(delta(request))
            else:
                rows.append(index)
                bits.append(mask)
        return Masks(np.array(rows, np.int32), bits) if rows else None

    def fail(self, which: Iterable[int]) -> None:
        """Requests of the batch planned last, by their places in it, cannot be computed: they end.

        Nothing was planned since. With one prompt end all of the batch: they may have found each other's
        tokens in the prefix cache. What has ended meanwhile may have left its last token there.
        """
        step = self._in_flight[-1]
        places = set(which)
        if max(places) >= step.sharing:
            places.update(range(step.sharing, len(step.everyone)))
        for row in step.everyone[sorted(places)].tolist():
            request = self._memory.table.requests[row]
            if request is not None:
                self._end(request, no_memory(request), keep=False)
                self._deltas.append(delta(request))
        self._memory.flush()

    def commit(self, result: Result) -> list[Delta]:
        """What the oldest uncommitted batch means: a Delta for every request that ended, or whose sender is
        to be told of its tokens now."""
        step = self._in_flight.popleft()
        assert len(result.tokens) == len(step.rows), "a token for every row that samples"
        collect_scores(step.scored, result)
        deltas = self._commit_pooled(step, result) if self._pools else self._commit_sampled(step, result)
        for request in step.ended:
            if request.finish is None:
                self._end(request, StoppedByLength(0))
                deltas.append(delta(request))
        self._counters.steps += 1
        self._forecast.stepped()
        if self._counters.steps % _RECONSIDER == 0:
            self._intake.reconsider()
        return deltas

    # -------------------------------------------------------------------------------------------- inside

    def _commit_sampled(self, step: Planned, result: Result) -> list[Delta]:
        table = self._memory.table
        # A row may have a new owner by now: its request ended after this batch had been planned, and this is
        # its surplus token; or it jumped, or was aborted.
        alive = table.owner[step.rows] == step.owners
        named = result.tokens != INVALID_TOKEN
        valid = np.flatnonzero(alive & named)
        rows, tokens = step.rows[valid], result.tokens[valid]
        table.append(rows, tokens)
        self._counters.generated_tokens += len(rows)
        # Most requests only have a token more: to look at each would take longer than all the rest.
        due = table.due(rows, tokens, self._eos_array)
        only = due.speaks & ~due.looks
        deltas = tell(table, rows[only], tokens[only], due.generated[only])
        entries = result.output_logprobs
        look = np.flatnonzero(due.looks)
        columns = (valid, rows, tokens, due.generated, due.speaks)
        for place, row, token, generated, speaks in zip(
            *(each[look].tolist() for each in columns), strict=True
        ):
            request = table.at(row)
            table.receive(request, token, generated)
            said = self._go_on(request, token, None if entries is None else entries[place], speaks=speaks)
            if said is not None:
                deltas.append(said)
        for place in np.flatnonzero(alive & ~named).tolist():
            request = table.at(step.rows[place])
            table.sync(request)
            self._end(request, no_valid_token(request), keep=False)
            deltas.append(delta(request))
        return deltas

    def _go_on(self, request: Request, token: int, entry: Entry | None, *, speaks: bool) -> Delta | None:
        """What the last token of an output means. speaks: its sender is to be told, whatever it means."""
        finish = request.stop.check(token, len(request.output))
        if finish is None and request.constrained is not None:
            finish = self._follow(request)
        if finish is not None:
            self._end(request, finish)
        elif not speaks:
            return None
        return delta(request, entry)

    def _commit_pooled(self, step: Planned, result: Result) -> list[Delta]:
        deltas: list[Delta] = []
        if result.pooled is None:  # nobody has caught up, or nothing was computed
            return deltas
        table = self._memory.table
        for row, owner, vector in zip(step.rows, step.owners, result.pooled, strict=True):
            if table.owner[row] == owner:  # neither aborted nor failed
                request = table.at(row)
                finish = vector_of(request, vector)
                self._end(request, finish, keep=isinstance(finish, Pooled))
                deltas.append(delta(request))
        return deltas

    def _refusal(self, message: Generate) -> Aborted | None:
        # Those who will find a row in the next plan do not really wait.
        waiting = self._line.newcomers + len(self._guidance) - self._memory.rows.free
        if self._max_queued is not None and waiting >= self._max_queued:
            return Aborted(f"{waiting} requests are waiting already: try again later", overloaded=True)
        return refusal(
            message,
            self._capacity.slots,
            self._capacity.context_length,
            has_vocabulary=self._vocabulary is not None,
            has_grammars=self._guidance.available,
        )

    def _request(self, message: Generate) -> Request:
        prompt = np.array(message.tokens, np.int32)
        sampling, asked = message.sampling, message.logprobs
        # What is pooled takes the place of a first and last token, which needs no room.
        limit = (
            1 if self._pools else min(sampling.max_new_tokens, self._capacity.context_length - len(prompt))
        )
        stop = Stop(sampling, limit=limit, eos=self._eos, vocabulary=self._vocabulary)
        scores = None
        if asked is not None and (asked.start >= 0 or asked.after):
            scores = PromptScores(prompt, asked)
        self._arrivals += 1
        return Request(
            rid=message.rid,
            prompt=prompt,
            sampling=sampling,
            stop=stop,
            bias=Bias(sampling, stop.tokens),
            top=-1 if asked is None else asked.top,
            scores=scores,
            arrival=self._arrivals,
            overdue_at=overdue_at(self._counters.admitted, self._line.newcomers),
            lot=self._lots.random(),
            # With log-probabilities each token is told alone; so is the last one always.
            every=1 if asked is not None else max(1, min(message.every, limit)),
            came_at=time.monotonic(),
        )

    def _begin_constrained(self) -> None:
        """Requests whose grammars are ready get into the line, or end."""
        for request, finish in self._guidance.begin():
            self._count_forced(len(request.output))
            if finish is None:
                self._line.join(request)
                self._intake.reconsider()
            else:
                self._end(request, finish)
                self._deltas.append(delta(request))

    def _follow(self, request: Request) -> Finish | None:
        """A constrained request has sampled a token that did not end it."""
        sampled = len(request.output)
        finish = self._guidance.follow(request)
        self._count_forced(len(request.output) - sampled)
        if len(request.output) > sampled and finish is None:
            self._memory.table.extend(request)
            if request.penalised:
                self._edited.append(request)
        return finish

    def _count_forced(self, tokens: int) -> None:
        self._counters.generated_tokens += tokens
        self._counters.forced_tokens += tokens

    def _choose(self) -> tuple[I32, I32, list[Chunk], list[Chunk]]:
        """Decoding rows, their slots, chunks of rows that have jumped, and of prompts, for the next batch;
        the slots are taken.

        All empty if there is nothing to compute, or no memory to compute it in.
        """
        rows = slots = _NONE
        jumped: list[Chunk] = []
        if self._mixed:
            decoding = self._decode()
            if decoding is None:
                return _NONE, _NONE, [], []
            rows, slots, jumped = decoding
        spent = sum(len(chunk.slots) for chunk in jumped)
        choice = self._intake.choose(taken=len(rows) + spent, spent=spent)
        for request in choice.complete:
            self._end(request, StoppedByLength(0))
            self._deltas.append(delta(request))
        if not self._mixed and not choice.chunks:
            rows, slots, jumped = self._decode() or (_NONE, _NONE, [])
        return rows, slots, jumped, choice.chunks

    def _decode(self) -> tuple[I32, I32, list[Chunk]] | None:
        """Rows that compute one token, its slots, and chunks of those that have jumped; None if memory does
        not suffice for all."""
        memory = self._memory
        rows = memory.table.decoding()
        needs = memory.table.needs(rows)
        if needs.sum() > memory.available:
            return None
        one = needs == 1
        if one.all():
            return rows, memory.take(len(rows)), []
        jumped = self._intake.jumped(rows[~one])
        return rows[one], memory.take(int(one.sum())), jumped

    def _make_room(self) -> None:
        """Nothing is in flight and running requests do not find the slots they need: some give theirs back.

        First those that have generated least, of equals the youngest: the request that is furthest is never
        taken, so it ends, whatever happens to the others. The last one has the memory to itself, and ends if
        that is too little.
        """
        memory = self._memory
        running = memory.table.running()
        for request in running:
            memory.table.sync(request)
        order = sorted(running, key=lambda request: (len(request.output), -request.arrival))
        if len(order) == 1:
            self._make_room_alone(order[0])
            return
        for victim in order[:-1]:
            self._retract(victim)
            if memory.available >= memory.table.demand(_RUNWAY):
                break
        self._forecast.retracted()
        self._intake.hold()

    def _make_room_alone(self, request: Request) -> None:
        needed = int(self._memory.table.computed[request.row]) + max(1, self._memory.table.need(request.row))
        if needed > self._memory.total:
            self._end(request, out_of_memory(request, needed, self._memory.total))
            self._deltas.append(delta(request))
        else:
            # It holds slots twice, for tokens that another had computed meanwhile; not when it is back.
            self._retract(request)

    def _retract(self, request: Request) -> None:
        """Back to the front of the line. Its sampled tokens stay: computed again, they are prompt, and as
        many have been sampled as before, so it goes on as if nothing had happened."""
        self._intake.drop(request)
        self._memory.leave(request)
        self._line.put_back(request)
        self._counters.retractions += 1

    def _end(self, request: Request, finish: Finish, *, keep: bool = True) -> None:
        """The request is over, wherever it is. `keep`: what it has computed may serve others."""
        request.finish = finish
        del self._requests[request.rid]
        if request.running:
            self._intake.drop(request)
            self._memory.leave(request, keep=keep)
        elif request in self._line:
            self._line.leave(request)
        else:
            self._guidance.forget(request)
        self._intake.reconsider()
        if request.output and not request.stop.by_length_alone:
            by_itself = isinstance(finish, StoppedByToken | StoppedByString | StoppedByConstraint)
            self._forecast.ended(len(request.output), by_itself=by_itself)
