# SPDX-License-Identifier: Apache-2.0
"""The proof is checked: each of these bugs, put into the scheduler on purpose, makes the property test
fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test
from serving import Replica
from serving_machine import CI, Serving

from sgl_runtime.cache.prefix import Match, Node
from sgl_runtime.cache.radix import RadixCache
from sgl_runtime.cache.slots import SlotPool
from sgl_runtime.messages import I32, Delta, Result
from sgl_runtime.scheduler import batch as batch_module
from sgl_runtime.scheduler import scheduler as scheduler_module
from sgl_runtime.scheduler.batch import Chunk, Planned
from sgl_runtime.scheduler.constraint import Constrained
from sgl_runtime.scheduler.memory import Memory
from sgl_runtime.scheduler.request import Request
from sgl_runtime.scheduler.scheduler import Scheduler
from sgl_runtime.scheduler.scores import PromptScores
from sgl_runtime.scheduler.sharing import Sharing
from sgl_runtime.scheduler.table import Table

# A hunt ends with its first find, which the rarest of these bugs has delayed to the 484th example.
HUNT = settings(CI, max_examples=4000, phases=[Phase.generate], verbosity=Verbosity.quiet, print_blob=False)


def aliased_slot(patch: pytest.MonkeyPatch) -> None:
    take = SlotPool.take

    def mutant(self: SlotPool, count: int) -> I32:
        slots = take(self, count)
        if count > 1:  # the last one stays on the stack
            self._stack[self.free] = slots[-1]
            self._is_free[slots[-1]] = True
            self.free += 1
        return slots

    patch.setattr(SlotPool, "take", mutant)


def double_free(patch: pytest.MonkeyPatch) -> None:
    def mutant(self: SlotPool, slots: I32) -> None:
        twice = np.concatenate((slots, slots[-1:]))[: self.total - self.free]
        self._stack[self.free : self.free + len(twice)] = twice
        self._is_free[twice] = True
        self.free += len(twice)

    patch.setattr(SlotPool, "give", mutant)


def forgotten_pin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RadixCache, "pin", lambda self, match: self._ending(match))
    patch.setattr(RadixCache, "unpin", lambda self, node: None)


def eviction_of_a_pinned_node(patch: pytest.MonkeyPatch) -> None:
    evict = RadixCache.evict

    def mutant(self: RadixCache, count: int) -> I32:
        leaves = [node for node in _below(self._root) if not node.children]
        oldest = min(leaves, key=lambda node: node.used, default=None)
        if oldest is None or not oldest.pins:
            return evict(self, count)
        self.evictable += len(oldest.tokens)  # which _drop_tail takes off again
        return self._drop_tail(oldest, count)

    patch.setattr(RadixCache, "evict", mutant)


def split_that_drops_the_pins(patch: pytest.MonkeyPatch) -> None:
    ending = RadixCache._ending

    def mutant(self: RadixCache, match: Match) -> Node:
        node = ending(self, match)
        if node is not match.node and node.pins:
            node.pins = 0
            self.evictable += len(node.tokens)
        return node

    patch.setattr(RadixCache, "_ending", mutant)
    patch.setattr(RadixCache, "unpin", _lenient_unpin)


def leaked_slot(patch: pytest.MonkeyPatch) -> None:
    abort = Scheduler.abort

    def mutant(self: Scheduler, rid: str) -> None:
        request = self._requests.get(rid)
        if request is not None and request.running:
            self._memory.table.computed[request.row] -= 1
        abort(self, rid)

    patch.setattr(Scheduler, "abort", mutant)


def leaked_duplicate(patch: pytest.MonkeyPatch) -> None:
    leave = Memory.leave

    def mutant(self: Memory, request: Request, *, keep: bool = True) -> None:
        request.spare.clear()
        leave(self, request, keep=keep)

    patch.setattr(Memory, "leave", mutant)


def stale_page_table(patch: pytest.MonkeyPatch) -> None:
    entering = batch_module._entering

    def mutant(table: Table, chunks: list[Chunk]) -> Any:
        prefixes, histories = entering(table, chunks)
        return tuple(prefix for prefix in prefixes if len(prefix.slots)), histories

    patch.setattr(batch_module, "_entering", mutant)


def result_for_the_row_instead_of_the_request(patch: pytest.MonkeyPatch) -> None:
    enter = Table.enter

    def mutant(self: Table, request: Request, row: int, prefix: I32) -> None:
        enter(self, request, row, prefix)
        self.owner[row] = 1

    patch.setattr(Table, "enter", mutant)


def unknown_token_in_the_cache(patch: pytest.MonkeyPatch) -> None:
    tokens = Request.tokens

    def mutant(self: Request) -> I32:
        return np.append(tokens(self), np.int32(0))  # as if the token in flight were an end of sequence

    patch.setattr(Request, "tokens", mutant)
    patch.setattr(Request, "known", property(lambda self: len(self.prompt) + len(self.output) + 1))


def cache_that_answers_the_last_token(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Request, "matchable", lambda self: self.known)


def sampling_that_starts_again_after_retraction(patch: pytest.MonkeyPatch) -> None:
    retract = Scheduler._retract

    def mutant(self: Scheduler, request: Request) -> None:
        retract(self, request)
        request.prompt, request.output = request.tokens(), []

    patch.setattr(Scheduler, "_retract", mutant)


def prompt_scored_again_in_the_next_chunk(patch: pytest.MonkeyPatch) -> None:
    ask = PromptScores.ask

    def mutant(self: PromptScores, begin: int, end: int) -> range:
        asked = ask(self, begin, end)
        self._ask -= bool(asked)
        return asked

    patch.setattr(PromptScores, "ask", mutant)


def token_in_flight_survives_a_jump(patch: pytest.MonkeyPatch) -> None:
    extend = Table.extend

    def mutant(self: Table, request: Request) -> None:
        owner = self.owner[request.row]
        extend(self, request)
        self.owner[request.row] = owner

    patch.setattr(Table, "extend", mutant)


def runs_of_rows_with_slots_of_their_own(patch: pytest.MonkeyPatch) -> None:
    """Two requests that computed the same tokens side by side have them in different slots."""
    nodes = Sharing._shared_nodes

    def blind(self: Sharing, request: Request) -> list[tuple[int, int]]:
        same, request.same = request.same, request.shared
        found = nodes(self, request)
        request.same = same
        return found

    patch.setattr(Sharing, "_shared_nodes", blind)


def runs_of_requests_that_have_left(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Memory, "version", property(lambda self: 0, lambda self, value: None), raising=False)


def penalties_that_do_not_see_a_jump(patch: pytest.MonkeyPatch) -> None:
    build = batch_module.build
    patch.setattr(
        scheduler_module,
        "build",
        lambda table, rows, slots, chunks, edited, shared: build(table, rows, slots, chunks, (), shared),
    )


def mask_that_is_a_token_late(patch: pytest.MonkeyPatch) -> None:
    mask = Constrained.mask

    def mutant(self: Constrained, generated: int) -> I32:
        matcher = self.matcher
        if generated < 2:
            return mask(self, generated)
        self.matcher = matcher.fork()
        self.matcher.rollback(1)
        late = mask(self, generated)
        self.matcher = matcher
        return late

    patch.setattr(Constrained, "mask", mutant)


def grammar_that_starts_again_after_retraction(patch: pytest.MonkeyPatch) -> None:
    retract = Scheduler._retract

    def mutant(self: Scheduler, request: Request) -> None:
        retract(self, request)
        if request.constrained is not None:
            request.constrained.matcher.reset()

    patch.setattr(Scheduler, "_retract", mutant)


def _below(node: Node) -> list[Node]:
    return [each for child in node.children.values() for each in (child, *_below(child))]


def _lenient_unpin(self: RadixCache, node: Node) -> None:
    for each in node.path():
        if each.pins:
            each.pins -= 1
            if not each.pins:
                self.evictable += len(each.tokens)
                self._queue_if_leaf(each)


def vectors_in_another_order(patch: pytest.MonkeyPatch) -> None:
    commit = Scheduler._commit_pooled

    def mutant(self: Scheduler, step: Planned, result: Result) -> list[Delta]:
        pooled = None if result.pooled is None else result.pooled[::-1]
        return commit(self, step, msgspec.structs.replace(result, pooled=pooled))

    patch.setattr(Scheduler, "_commit_pooled", mutant)


MEMORY = [
    runs_of_rows_with_slots_of_their_own,
    runs_of_requests_that_have_left,
    aliased_slot,
    double_free,
    forgotten_pin,
    eviction_of_a_pinned_node,
    split_that_drops_the_pins,
    stale_page_table,
    result_for_the_row_instead_of_the_request,
    cache_that_answers_the_last_token,
]
OTHERS = [
    leaked_slot,
    leaked_duplicate,
    unknown_token_in_the_cache,
    sampling_that_starts_again_after_retraction,
    prompt_scored_again_in_the_next_chunk,
    token_in_flight_survives_a_jump,
    penalties_that_do_not_see_a_jump,
    mask_that_is_a_token_late,
    grammar_that_starts_again_after_retraction,
    vectors_in_another_order,
]


@pytest.mark.parametrize("bug", MEMORY + OTHERS)
def test_the_property_test_catches(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliberate bugs, each of which the machine of serving_machine must report:

    aliased_slot: a slot that was handed out stays in the pool, and two tokens share it. double_free: a slot
    that is given back enters the pool twice. forgotten_pin: a request reads a cached prefix without
    protecting it from eviction. eviction_of_a_pinned_node: eviction takes the oldest leaf even if a running
    request reads it. split_that_drops_the_pins: when a pinned node is split, its upper half becomes
    evictable. stale_page_table: a request without cached tokens is not announced to its row, whose old
    entries remain. result_for_the_row_instead_of_the_request: a token in flight is credited to whoever has
    the row by now. cache_that_answers_the_last_token: nothing is left to compute, and so nothing to sample
    from. leaked_slot: a request that ends with a token in flight keeps that token's slot for ever.
    leaked_duplicate: slots of tokens that another request had cached first are not given back.
    unknown_token_in_the_cache: the slot of a token in flight is cached under a guess of its value.
    sampling_that_starts_again_after_retraction: the output so far becomes prompt, and is counted and seeded
    anew. prompt_scored_again_in_the_next_chunk: one position of a prompt is reported by two passes.
    token_in_flight_survives_a_jump: forced text is appended, and the token that was being sampled meanwhile
    behind it. penalties_that_do_not_see_a_jump: the runner counts what it sampled alone.
    mask_that_is_a_token_late: a token is sampled under the mask of the one before, as it would be if masks
    were asked for before that one is known. grammar_that_starts_again_after_retraction: the output goes on,
    its grammar does not. vectors_in_another_order: requests that end in one pass get each other's.
    """
    bug(monkeypatch)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        run_state_machine_as_test(Serving, settings=HUNT)


@pytest.mark.parametrize("bug", MEMORY)
def test_the_fake_model_alone_catches(
    bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same bugs with nobody looking into the books: what is wrong with memory is seen where memory is
    read."""
    bug(monkeypatch)
    monkeypatch.setattr(Replica, "check_books", lambda self: None)
    monkeypatch.setattr(Replica, "check_all_free", lambda self: None)
    with pytest.raises((AssertionError, IndexError, KeyError)):
        run_state_machine_as_test(Serving, settings=HUNT)
