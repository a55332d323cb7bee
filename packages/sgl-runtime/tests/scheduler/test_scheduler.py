# SPDX-License-Identifier: Apache-2.0
"""What each event is under the one rule, seen in the batches and deltas of small cases."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hash_runner import EMPTY_PREFIX, V, mix
from serving import GREEDY, Replica

from sgl_runtime.cache.slots import SlotPool
from sgl_runtime.messages import (
    I32,
    Aborted,
    Batch,
    LogprobSpec,
    Sampling,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)
from sgl_runtime.scheduler import sharing

LONG = Sampling(max_new_tokens=40, temperature=0.0, ignore_eos=True)
SURPRISING = Sampling(
    max_new_tokens=40, temperature=0.0, logit_bias=((0, -100.0),)
)  # as long, but nobody knows


_random = np.random.default_rng()


@pytest.fixture(autouse=True)
def _the_same_prompts_whatever_ran_before() -> None:
    _random.bit_generator.state = np.random.default_rng(5).bit_generator.state


def prompt(length: int) -> list[int]:
    tokens: list[int] = _random.integers(1, V, length).tolist()
    return tokens


def planned(replica: Replica) -> Batch:
    """The next batch, which then runs and is committed."""
    batch = replica.scheduler.plan()
    assert batch is not None
    replica.receive(replica.scheduler.commit(replica.runner.forward(batch)))
    return batch


def done(replica: Replica) -> None:
    replica.finish()
    replica.check_answers()
    replica.check_all_free()


def with_limit(sampling: Sampling, **changes: Any) -> Sampling:
    return msgspec.structs.replace(sampling, **changes)


# ------------------------------------------------------------------------------------------- prompts, chunks


def test_a_prompt_is_computed_at_once_and_then_a_token_per_step() -> None:
    replica = Replica()
    replica.add(prompt(10), with_limit(LONG, max_new_tokens=4))
    batches = [planned(replica) for _ in range(4)]
    assert [batch.q_lens.tolist() for batch in batches] == [[10], [1], [1], [1]]
    assert [batch.kv_lens.tolist() for batch in batches] == [[10], [11], [12], [13]]
    assert [len(batch.prefixes) for batch in batches] == [1, 0, 0, 0]
    assert [batch.sampling.steps.tolist() for batch in batches] == [[0], [1], [2], [3]]
    assert replica.scheduler.plan() is None
    done(replica)


def test_a_long_prompt_comes_in_chunks_and_samples_after_the_last() -> None:
    replica = Replica(chunked_prefill_size=4)
    replica.add(prompt(10), GREEDY)
    shapes = [(planned(replica)).q_lens.tolist() for _ in range(3)]
    assert shapes == [[4], [4], [2]]
    assert [sampled for _, sampled in replica.runner.shapes] == [0, 0, 1]
    done(replica)


def test_the_budget_of_all_prompts_cuts_the_last_of_them() -> None:
    replica = Replica(max_prefill_tokens=12, chunked_prefill_size=8, enable_mixed_chunk=False)
    for _ in range(3):
        replica.add(prompt(8), GREEDY)
    assert planned(replica).q_lens.tolist() == [8, 4]
    assert planned(replica).q_lens.tolist() == [4, 8]
    done(replica)


def test_without_chunks_a_prompt_goes_whole_and_alone_if_it_must() -> None:
    options = {"enable_mixed_chunk": False, "schedule_policy": "fcfs"}
    replica = Replica(max_prefill_tokens=12, chunked_prefill_size=0, slots=400, **options)
    for first, length in enumerate((7, 20, 6, 5), start=1):
        replica.add([first, *prompt(length - 1)], GREEDY)
    assert [planned(replica).q_lens.tolist() for _ in range(3)] == [[7], [20], [6, 5]]
    done(replica)


def test_prompts_go_first_and_mixed_batches_hold_both() -> None:
    shapes = {}
    for mixed in (False, True):
        replica = Replica(enable_mixed_chunk=mixed, chunked_prefill_size=4, slots=200)
        replica.add(prompt(3), LONG)
        planned(replica)
        replica.add(prompt(8), LONG)
        shapes[mixed] = [sorted(planned(replica).q_lens.tolist()) for _ in range(3)]
        done(replica)
    assert shapes == {False: [[4], [4], [1, 1]], True: [[1, 4], [1, 4], [1, 1]]}


def test_requests_that_begin_alike_stand_together() -> None:
    replica = Replica(rows=8, slots=600, context_length=200, shared_least=3, schedule_policy="fcfs")
    one, other = prompt(100), [V - 1 - token for token in prompt(90)]
    for head in (one, other):  # the first of each computes what the others find
        replica.add(head, LONG)
        planned(replica)
    for head in (other, one, one[:50], other, one):
        replica.add([*head, 3], LONG)
    replica.add([5] * 7, LONG)
    while (batch := planned(replica)).q_lens.max() > 1:
        pass
    assert [(run.rows, run.tokens) for run in batch.shared] == [(3, 100), (3, 90)]
    assert sorted(batch.rows.tolist()) == list(range(8))
    done(replica)


def test_short_prefixes_are_not_worth_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_WORTH", 64)
    replica = Replica(rows=8, slots=600, shared_least=3)
    for last in range(3):
        replica.add([*prompt(40), last + 1], LONG)
    while (batch := planned(replica)).q_lens.max() > 1:
        pass
    assert batch.shared == ()  # 80 tokens need not be read again, and 64 times 3 would be worth it
    done(replica)


def test_one_call_takes_the_slots_of_all_decoding_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica(rows=6, slots=400)
    for _ in range(6):
        replica.add(prompt(5), LONG)
    planned(replica)
    calls: list[int] = []
    take = SlotPool.take

    def counting(self: SlotPool, count: int) -> I32:
        calls.append(count)
        return take(self, count)

    monkeypatch.setattr(SlotPool, "take", counting)
    planned(replica)
    assert calls == [6]


# --------------------------------------------------------------------------------------------- prefix cache


def test_a_shared_prefix_is_computed_once() -> None:
    replica = Replica(slots=200, context_length=128)
    shared = prompt(50)
    first = replica.add([*shared, 1, 2], GREEDY)
    replica.finish()
    second = replica.add([*shared, 3], GREEDY)
    batch = planned(replica)
    assert (batch.q_lens.tolist(), batch.kv_lens.tolist()) == ([1], [51])
    assert len(batch.prefixes[0].slots) == 50
    assert (replica.cached[first], replica.cached[second]) == (0, 50)
    assert (replica.scheduler.load.prompt_tokens, replica.scheduler.load.cached_tokens) == (103, 50)
    done(replica)


def test_the_last_token_is_computed_even_if_it_is_cached() -> None:
    replica = Replica()
    tokens = prompt(10)
    replica.add(tokens, GREEDY)
    replica.finish()
    again = replica.add(tokens, GREEDY)
    assert planned(replica).q_lens.tolist() == [1]
    assert replica.cached[again] == 9
    done(replica)


def test_an_answer_is_cached_for_the_next_turn() -> None:
    replica = Replica()
    first = replica.add(prompt(6), with_limit(LONG, max_new_tokens=5))
    replica.finish()
    dialogue = replica.sent[first].tokens + replica.answers[first].tokens
    second = replica.add([*dialogue, 1, 2], GREEDY)
    replica.finish()
    assert replica.cached[second] == 10, "all but the last token of the answer, which was never computed"
    done(replica)


def test_a_newcomer_waits_one_step_for_what_another_is_computing() -> None:
    """Eight samples of one prompt of 100 tokens cost one prompt, not eight."""
    replica = Replica(slots=400, rows=8, context_length=200, chunked_prefill_size=64)
    tokens = prompt(100)
    for seed in range(8):
        replica.add(tokens, Sampling(max_new_tokens=3, seed=seed))
    shapes = [planned(replica).q_lens.tolist() for _ in range(3)]
    assert shapes == [[64], [36], [1] * 8]
    assert sorted(replica.cached.values()) == [0, *[99] * 7]
    done(replica)


def test_without_radix_cache_nothing_is_shared() -> None:
    replica = Replica(radix=False, slots=400)
    tokens = prompt(40)
    for _ in range(3):
        replica.add(tokens, GREEDY)
    assert planned(replica).q_lens.tolist() == [40, 40, 40]
    replica.finish()
    assert set(replica.cached.values()) == {0}
    done(replica)


# ------------------------------------------------------------------------------------- nothing to be sampled


def test_no_new_tokens_computes_the_prompt_and_ends() -> None:
    replica = Replica(chunked_prefill_size=4)
    tokens = prompt(6)
    warm = replica.add(tokens, with_limit(GREEDY, max_new_tokens=0))
    assert [planned(replica).q_lens.tolist() for _ in range(2)] == [[4], [2]]
    assert replica.answers[warm].finish == StoppedByLength(0)
    assert all(sampled == 0 for _, sampled in replica.runner.shapes)
    again = replica.add(tokens, with_limit(GREEDY, max_new_tokens=0))
    assert replica.scheduler.plan() is None, "all of it is cached: no batch at all"
    replica.receive(replica.scheduler.take_deltas())
    assert (replica.answers[again].finish, replica.cached[again]) == (StoppedByLength(0), 6)
    done(replica)


@pytest.mark.parametrize("chunk", [1, 3, 64])
def test_prompt_logprobs_are_computed_although_cached_and_come_once(chunk: int) -> None:
    replica = Replica(chunked_prefill_size=chunk)
    tokens = prompt(12)
    replica.add(tokens, GREEDY)
    replica.finish()
    before = len(replica.runner.shapes)
    scored = replica.add(tokens, with_limit(GREEDY, max_new_tokens=0), LogprobSpec(start=5, top=2))
    replica.finish()
    computed = sum(sum(q_lens) for q_lens, _ in replica.runner.shapes[before:])
    assert computed == 8, "position 5 is scored by the logits at 4"
    assert replica.cached[scored] == 4
    logprobs = replica.answers[scored].input_logprobs
    assert logprobs is not None and logprobs.tokens == tokens[5:]
    done(replica)


def test_a_request_without_logprobs_costs_none() -> None:
    replica = Replica()
    replica.add(prompt(4), GREEDY)
    assert planned(replica).logprobs is None
    replica.add(prompt(4), GREEDY, LogprobSpec(top=0))
    assert planned(replica).logprobs is not None
    done(replica)


# --------------------------------------------------------------------------------------------------- overlap


def test_with_overlap_the_token_in_flight_is_minus_one() -> None:
    replica = Replica(overlap=True)
    replica.add(prompt(4), with_limit(LONG, max_new_tokens=3))
    first, second, third = (replica.scheduler.plan(), *[None] * 2)
    assert first is not None
    results = [replica.runner.forward(first)]
    second = replica.scheduler.plan()
    assert second is not None and second.tokens.tolist() == [-1]
    results.append(replica.runner.forward(second))
    replica.receive(replica.scheduler.commit(results[0]))
    third = replica.scheduler.plan()
    assert third is not None and third.tokens.tolist() == [-1]
    results.append(replica.runner.forward(third))
    replica.receive(replica.scheduler.commit(results[1]))
    assert replica.scheduler.plan() is None, "the end by length is known before the last token is"
    assert not replica.scheduler.idle
    replica.receive(replica.scheduler.commit(results[2]))
    done(replica)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("radix", [False, True])
def test_overlap_changes_no_answer(mixed: bool, radix: bool) -> None:
    answers = []
    for overlap in (False, True):
        rng = np.random.default_rng(9)
        replica = Replica(
            slots=90, overlap=overlap, radix=radix, enable_mixed_chunk=mixed, chunked_prefill_size=5
        )
        for index in range(30):
            stop = [(), (b"ab",), (b"c", b"d")][index % 3]
            sampling = Sampling(
                max_new_tokens=int(rng.integers(0, 30)), seed=index, stop=stop, frequency_penalty=0.5
            )
            replica.add(
                rng.integers(1, V, rng.integers(1, 20)).tolist(), sampling, LogprobSpec(start=0, top=1)
            )
        done(replica)
        answers.append(replica.answers)
        kinds = {type(answer.finish) for answer in replica.answers.values()}
        assert {StoppedByLength, StoppedByString, StoppedByToken} <= kinds
    assert answers[0] == answers[1]


# ------------------------------------------------------------------------------------- memory that is short


def test_retraction_loses_no_token_and_the_request_goes_to_the_front() -> None:
    """Two answers that do not fit together, and a third request that would: the retracted one is served
    before it."""
    replica = Replica(slots=60, context_length=64)
    replica.add(prompt(4), with_limit(SURPRISING, temperature=1.0, seed=1), rid="a")
    planned(replica)
    replica.add(prompt(4), with_limit(SURPRISING, temperature=1.0, seed=2), rid="b")
    while not replica.scheduler.load.retractions:
        planned(replica)
        replica.check_books()
    assert (replica.scheduler.load.running, replica.scheduler.load.waiting) == (1, 1)
    said = len(replica.answers["b"].tokens)
    assert said > 5, "the youngest, in the middle of its answer"
    replica.add(prompt(2), with_limit(LONG, max_new_tokens=2), rid="c")
    for _ in range(3):
        planned(replica)
    assert not replica.answers["c"].tokens, "newcomers wait behind it even if they would fit"
    done(replica)
    assert replica.scheduler.load.retractions == 1


def test_nothing_is_retracted_while_a_result_may_free_memory() -> None:
    """`a` ends with the token in flight; `b` needs its slots, and gets them without a retraction."""
    replica = Replica(slots=16, overlap=True)
    replica.add(prompt(6), with_limit(SURPRISING, max_new_tokens=3), rid="a")
    replica.add(prompt(6), with_limit(SURPRISING, max_new_tokens=8), rid="b")
    replica.step()
    assert replica.scheduler.load.running == 2
    done(replica)
    assert replica.scheduler.load.retractions == 0
    assert replica.scheduler.load.generated_tokens == 11


def test_a_request_that_outgrows_the_memory_ends_and_the_rest_goes_on() -> None:
    replica = Replica(slots=20, context_length=64, rows=2)
    replica.add(prompt(8), LONG, rid="greedy")
    replica.add(prompt(3), with_limit(LONG, max_new_tokens=6), rid="modest")
    done(replica)
    finish = replica.answers["greedy"].finish
    assert isinstance(finish, Aborted) and not finish.overloaded
    assert "needs at least 21 tokens" in finish.reason and "has 20" in finish.reason
    assert "--max-total-tokens" in finish.reason and "max_new_tokens" in finish.reason
    assert len(replica.answers["greedy"].tokens) == 13, "8 + 12 in the slots, and one that needs none"
    assert replica.answers["modest"].finish == StoppedByLength(6)


@pytest.mark.parametrize(
    ("length", "sampling", "options", "reason"),
    [
        (21, GREEDY, {"slots": 20}, "needs at least 21 tokens of KV memory and the server has 20"),
        (16, GREEDY, {"context_length": 16}, "16 tokens and the context length is 16, of which at most 15"),
        (
            17,
            with_limit(GREEDY, max_new_tokens=0),
            {"context_length": 16},
            "17 tokens and the context length is 16",
        ),
        (4, with_limit(GREEDY, stop=(b"a",)), {"vocabulary": None}, "stop strings need a tokenizer"),
    ],
)
def test_what_can_never_run_is_refused_at_once(
    length: int, sampling: Sampling, options: dict[str, Any], reason: str
) -> None:
    replica = Replica(**options)
    refused = replica.add(prompt(length), sampling)
    assert replica.scheduler.idle
    replica.receive(replica.scheduler.take_deltas())
    finish = replica.answers[refused].finish
    assert isinstance(finish, Aborted) and reason in finish.reason and not finish.overloaded
    replica.check_all_free()


def test_a_prompt_may_fill_the_context_when_nothing_is_sampled() -> None:
    replica = Replica(context_length=16)
    replica.add(prompt(16), with_limit(GREEDY, max_new_tokens=0))
    replica.add(prompt(15), with_limit(GREEDY, max_new_tokens=9, ignore_eos=True), rid="one")
    done(replica)
    assert replica.answers["one"].finish == StoppedByLength(1)


def test_the_line_may_be_limited() -> None:
    replica = Replica(rows=2, max_queued_requests=3)
    rids = [replica.add(prompt(3), GREEDY) for _ in range(7)]
    replica.receive(replica.scheduler.take_deltas())
    refused = [rid for rid in rids if replica.answers[rid].finish is not None]
    assert refused == rids[5:], "two rows, three places"
    finish = replica.answers[rids[6]].finish
    assert isinstance(finish, Aborted) and finish.overloaded
    assert "3 requests are waiting" in finish.reason
    replica.finish()
    replica.check_all_free()


# --------------------------------------------------------------------------------------- ends of other kinds


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_an_abort_frees_rows_and_slots_at_once(steps: int, overlap: bool) -> None:
    replica = Replica(slots=64, rows=2, overlap=overlap, chunked_prefill_size=8, radix=False)
    rids = [replica.add(prompt(12), LONG) for _ in range(3)]
    for _ in range(steps):
        replica.step()
    for rid in rids:
        replica.abort(rid)
        replica.check_books()
    memory = replica.scheduler._memory
    assert (memory.pool.free, memory.rows.free) == (64, 2)
    assert (replica.scheduler.load.running, replica.scheduler.load.waiting) == (0, 0)
    replica.add(prompt(12), LONG)  # into the same row, while the old batch is in flight
    done(replica)


def test_an_abort_of_an_unknown_request_is_ignored() -> None:
    replica = Replica()
    replica.scheduler.abort("nobody")
    assert replica.scheduler.idle


def test_a_request_without_valid_logits_ends_alone_and_is_not_cached() -> None:
    prefix, poisoned = EMPTY_PREFIX, list[int]()
    while prefix % 199:
        token = next(token for token in range(1, V) if mix(prefix, token) % 199 == 0 or token == V - 1)
        poisoned.append(token)
        prefix = mix(prefix, token)
    replica = Replica(slots=600, context_length=600, overlap=True, invalid=199)
    replica.add(poisoned, LONG, rid="bad")
    replica.add(prompt(5), with_limit(LONG, max_new_tokens=9), rid="good")
    done(replica)
    finish = replica.answers["bad"].finish
    assert isinstance(finish, Aborted) and "NaN" in finish.reason
    replica.add(poisoned, LONG)
    replica.finish()
    assert replica.cached["r2"] == 0, "what may hold NaN is not found again"


def test_flush_empties_the_cache_only_when_nothing_runs_or_waits() -> None:
    replica = Replica()
    replica.add(prompt(9), GREEDY)
    assert not replica.scheduler.flush()
    replica.step()
    assert not replica.scheduler.flush()
    replica.finish()
    assert replica.scheduler.load.slots_cached > 0
    assert replica.scheduler.flush()
    assert replica.scheduler.load.slots_cached == 0
    replica.check_all_free()


# -------------------------------------------------------------------------------------------- what is sent


def test_sampling_parameters_arrive_in_their_columns() -> None:
    replica = Replica()
    sampling = Sampling(
        max_new_tokens=5,
        min_new_tokens=2,
        temperature=0.5,
        top_p=0.75,
        top_k=7,
        min_p=0.125,
        frequency_penalty=0.25,
        presence_penalty=-0.5,
        repetition_penalty=1.25,
        seed=2**63 - 1,
        stop_token_ids=(4,),
        logit_bias=((3, 1.5),),
    )
    replica.add(prompt(3), GREEDY)
    replica.add([1, 2, 2], sampling)
    arrays = planned(replica).sampling
    expected = (0.5, 0.75, 7, 0.125, 0.25, -0.5, 1.25, 2**63 - 1)
    columns = (
        arrays.temperature,
        arrays.top_p,
        arrays.top_k,
        arrays.min_p,
        arrays.frequency_penalty,
        arrays.presence_penalty,
        arrays.repetition_penalty,
        arrays.seeds,
    )
    assert tuple(column[1].item() for column in columns) == expected
    assert [(h.row, h.prompt.tolist(), h.output.tolist()) for h in arrays.histories] == [(1, [1, 2, 2], [])]
    biases = zip(
        arrays.bias_rows.tolist(), arrays.bias_tokens.tolist(), arrays.bias_values.tolist(), strict=True
    )
    assert list(biases) == [(1, 3, 1.5), (1, 0, -np.inf), (1, 4, -np.inf)]
    planned(replica)
    third = planned(replica).sampling
    assert third.histories == ()
    assert third.bias_tokens.tolist() == [3], "stop tokens are allowed after min_new_tokens"
    done(replica)


def test_load_counts_what_happened() -> None:
    replica = Replica(rows=2)
    for _ in range(3):
        replica.add(prompt(5), with_limit(LONG, max_new_tokens=3))
    planned(replica)
    load = replica.scheduler.load
    assert (load.running, load.waiting, load.slots, load.slots_used) == (2, 1, 64, 10)
    assert (load.prompt_tokens, load.generated_tokens, load.steps) == (10, 2, 1)
    done(replica)
    load = replica.scheduler.load
    assert (load.running, load.waiting, load.slots_used) == (0, 0, 0)
    assert (load.prompt_tokens, load.generated_tokens) == (15, 9)


def test_a_request_id_is_unique() -> None:
    replica = Replica()
    replica.add(prompt(3), GREEDY, rid="x")
    with pytest.raises(AssertionError, match="x is in use"):
        replica.add(prompt(3), GREEDY, rid="x")
