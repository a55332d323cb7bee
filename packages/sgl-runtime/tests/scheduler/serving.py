# SPDX-License-Identifier: Apache-2.0
"""`Replica`: a scheduler and a `HashRunner` in the loop of a real replica, with all the books checked after
every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np
from hash_runner import COMPILER, EOS, VOCABULARY, Answer, HashRunner, V, encode_text, generate
from sgl_constrain import ConstrainError

from sgl_runtime.cache.prefix import NoCache, Node
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.messages import (
    Aborted,
    Answers,
    Capacity,
    Constraint,
    Delta,
    Generate,
    LogprobSpec,
    Masks,
    Pooled,
    Result,
    Sampling,
)
from sgl_runtime.scheduler import sharing
from sgl_runtime.scheduler.constraint import CompiledGrammar, Grammars
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.text.constraints import compile_constraint

sharing._WORTH = 1  # prefixes are short here

GREEDY = Sampling(temperature=0.0, max_new_tokens=8)


class LateGrammars(Grammars):
    """A grammar is ready when the test says so."""

    def __init__(self) -> None:
        super().__init__(partial(compile_constraint, COMPILER))
        self._thread.shutdown()
        self._waiting: list[tuple[Constraint, Future[CompiledGrammar]]] = []
        self.late = False

    def ask(self, constraint: Constraint) -> Future[CompiledGrammar]:
        future: Future[CompiledGrammar] = Future()
        self._waiting.append((constraint, future))
        if not self.late:
            self.compile()
        return future

    def compile(self) -> None:
        """Everything that was asked for."""
        for constraint, future in self._waiting:
            try:
                future.set_result(self._make(constraint))
            except ConstrainError as error:
                future.set_exception(error)
        self._waiting.clear()


class Replica:
    """Answers requests; `answers[rid]` grows with every step."""

    def __init__(
        self,
        *,
        slots: int = 64,
        rows: int = 4,
        context_length: int = 64,
        radix: bool = True,
        overlap: bool = False,
        invalid: int = 0,
        jumps: bool = True,
        answers: Answers = "text",
        **options: Any,
    ) -> None:
        self.pools = answers != "text"
        self.capacity = Capacity(
            slots=slots, rows=rows, context_length=context_length, vocab_size=V, answers=answers
        )
        self.cache = RadixCache() if radix else NoCache()
        self.grammars = LateGrammars()
        self.jumps = jumps
        defaults = {"eos": EOS, "vocabulary": VOCABULARY, "grammars": self.grammars, "encode": encode_text}
        options = {**defaults, "disable_regex_jump_forward": not jumps, **options}
        self.scheduler = Scheduler(self.capacity, self.cache, **options)
        self.runner = HashRunner(self.capacity, self._truth, invalid=invalid)
        self.overlap = overlap
        self.invalid = invalid
        self.launched: list[Result] = []
        self.sent: dict[str, Generate] = {}
        self.aborted: set[str] = set()
        self.failed: set[str] = set()  # were not over when a pass failed
        self.answers: dict[str, Answer] = {}
        self.cached: dict[str, int] = {}
        self.forced = 0
        self.order: list[str] = []  # rids, as their first tokens arrived

    # ------------------------------------------------------------------------------------------ driving

    def add(
        self,
        tokens: Iterable[int],
        sampling: Sampling = GREEDY,
        logprobs: LogprobSpec | None = None,
        rid: str = "",
        every: int = 1,
    ) -> str:
        rid = rid or f"r{len(self.sent)}"
        message = Generate(rid, list(tokens), sampling, logprobs, every)
        self.sent[rid] = message
        self.answers[rid] = Answer()
        self.scheduler.add(message)
        return rid

    def abort(self, rid: str) -> None:
        self.scheduler.abort(rid)
        if self.answers[rid].finish is None:
            self.aborted.add(rid)

    def launch(self) -> bool:
        """Plan and launch a batch, if the depth of overlap allows; False if nothing was planned."""
        assert len(self.launched) <= self.overlap, "too many batches in flight"
        batch = self.scheduler.plan()
        if batch is not None:
            ending = {rid for rid, answer in self.answers.items() if answer.finish is None}
            self.launched.append(self.runner.forward(batch, self._masks))
            if self.runner.failed:
                self.scheduler.fail(self.runner.failed)
                self.failed |= ending
        elif not self.launched and not self.scheduler.compiling:
            assert self.scheduler.idle, "nothing planned and nothing in flight, but requests wait"
        self.receive(self.scheduler.take_deltas())
        return batch is not None

    def _masks(self) -> Masks | None:
        """Asked by the runner between model and sampler, as of a leader."""
        if not self.scheduler.constrained:
            return None
        while self.launched:
            self.land()
        return self.scheduler.masks()

    def land(self) -> None:
        """Commit the oldest batch in flight, if there is one."""
        if self.launched:
            self.receive(self.scheduler.commit(self.launched.pop(0)))

    def step(self) -> None:
        """A turn of the leader's loop."""
        while len(self.launched) > self.overlap:
            self.land()
        ahead = 1 if self.launch() and self.overlap else 0
        while len(self.launched) > ahead:
            self.land()

    def finish(self, *, steps: int = 20_000) -> None:
        """Run until everything is answered, checking the books."""
        self.grammars.late = False
        self.grammars.compile()
        while not self.scheduler.idle:
            self.step()
            self.check_books()
            steps -= 1
            assert steps > 0, "the requests are never answered"

    def receive(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            assert delta.rid not in self.aborted, "an aborted request is told nothing"
            answer = self.answers[delta.rid]
            assert answer.finish is None, "nothing follows the finish"
            assert delta.tokens or delta.finish is not None, "a delta says something"
            assert 0 <= delta.forced <= len(delta.tokens)
            self.forced += delta.forced
            self._check_length(delta, first=not answer.tokens)
            if delta.rid not in self.cached:
                self.cached[delta.rid] = delta.cached
                self.order.append(delta.rid)
                answer.input_logprobs = delta.input_logprobs
            else:
                assert delta.input_logprobs is None, "prompt log-probabilities come once"
            assert delta.cached == self.cached[delta.rid], "cached counts the first admission"
            answer.tokens += delta.tokens
            answer.finish = delta.finish
            if delta.output_logprobs is not None:
                assert delta.output_logprobs.tokens == delta.tokens
                pairs = zip(delta.output_logprobs.values, delta.output_logprobs.top, strict=True)
                answer.output_logprobs += [(value, top) for value, top in pairs if value is not None]

    # ----------------------------------------------------------------------------------------- checking

    def _check_length(self, delta: Delta, *, first: bool) -> None:
        """Nobody hears of his tokens one by one who wants to hear of several at once."""
        message = self.sent[delta.rid]
        if message.logprobs is None and message.sampling.constraint is None:
            most = 1 if first and delta.finish is None else message.every
            assert len(delta.tokens) <= most
            assert len(delta.tokens) == most or delta.finish is not None

    def check_answers(self) -> None:
        """Every request was told what the model says without a scheduler; aborted ones, a beginning of it."""
        for rid, message in self.sent.items():
            told = self.answers[rid]
            expected = generate(message, self.capacity, invalid=self.invalid, jumps=self.jumps)
            if rid in self.aborted:
                assert told.tokens == expected.tokens[: len(told.tokens)]
                assert told.finish is None
                continue
            if rid in self.failed and isinstance(told.finish, Aborted) and told.finish.overloaded:
                assert told.tokens == expected.tokens[: len(told.tokens)]
                continue
            assert told.tokens == expected.tokens, f"{rid}: {told} instead of {expected}"
            if isinstance(expected.finish, Aborted):
                assert isinstance(told.finish, Aborted) and told.finish.reason, f"{rid}: {told.finish}"
                assert not told.finish.overloaded
            elif isinstance(expected.finish, Pooled):
                assert isinstance(told.finish, Pooled), f"{rid}: {told.finish}"
                assert told.finish.vector.tolist() == expected.finish.vector.tolist()
            else:
                assert told.finish == expected.finish, f"{rid}: {told.finish} instead of {expected.finish}"
                assert told.input_logprobs == expected.input_logprobs
            assert told.output_logprobs == expected.output_logprobs

    def check_books(self) -> None:
        """Every slot and row has exactly one owner, and the counters say who."""
        memory = self.scheduler._memory
        running = memory.table.running()
        nodes = list(self.nodes())
        free = memory.pool._stack[: memory.pool.free].tolist()
        cached = [slot for node in nodes for slot in node.slots.tolist()]
        own: list[int] = []
        for request in running:
            assert request.pin is not None
            computed = int(memory.table.computed[request.row])
            own += memory.table.slots[request.row, request.shared : computed].tolist()
            own += [slot for run in request.spare for slot in run.tolist()]
            if memory.cache.remembers:
                spelled = np.concatenate([_EMPTY, *[node.tokens for node in request.pin.path()][::-1]])
                assert spelled.tolist() == request.tokens()[: request.shared].tolist()
        assert sorted(free + cached + own) == list(range(self.capacity.slots)), (
            "a slot was lost or has two owners"
        )
        assert memory.cache.size == len(cached)
        unpinned = sum(len(node.tokens) for node in nodes if not node.pins)
        assert memory.cache.evictable == unpinned
        pins = Counter(node.serial for request in running for node in request.pin.path())  # type: ignore[union-attr]
        assert all(node.pins == pins[node.serial] for node in nodes), "pins are those of the running requests"
        rows = sorted(request.row for request in running)
        assert memory.rows.free + len(rows) == self.capacity.rows and len(set(rows)) == len(rows)
        load = self.scheduler.load
        held = load.slots_used + load.slots_cached + memory.pool.free
        assert held == load.slots == self.capacity.slots
        told = sum(len(answer.tokens) for answer in self.answers.values())
        assert load.generated_tokens >= told and load.forced_tokens >= self.forced
        if not self.aborted and not self.failed and self.scheduler.idle:
            assert (load.generated_tokens, load.forced_tokens) == (told, self.forced)
        if not memory.cache.remembers:
            assert load.slots_used == len(own)

    def check_all_free(self) -> None:
        assert self.scheduler.idle
        assert self.scheduler.flush()
        memory = self.scheduler._memory
        assert memory.pool.free == self.capacity.slots
        assert memory.rows.free == self.capacity.rows
        assert memory.cache.size == memory.cache.evictable == 0

    def nodes(self) -> Iterator[Node]:
        """All nodes of the tree but the root."""
        if isinstance(self.cache, RadixCache):
            open_nodes = [self.cache._root]
            while open_nodes:
                node = open_nodes.pop()
                for first, child in node.children.items():
                    assert child.parent is node and int(child.tokens[0]) == first
                    assert len(child.tokens) == len(child.slots) > 0
                    open_nodes.append(child)
                    yield child

    def _truth(self, row: int) -> list[int]:
        request = self.scheduler._memory.table.requests[row]
        assert request is not None, "a batch names a row that nobody has"
        tokens: list[int] = request.tokens().tolist()
        return tokens


_EMPTY = np.empty(0, np.int32)
