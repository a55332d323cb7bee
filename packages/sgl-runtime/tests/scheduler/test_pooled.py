# SPDX-License-Identifier: Apache-2.0
"""A replica whose model pools: every request ends with the vector of its last token, in as few passes as its
prompt takes."""

from __future__ import annotations

import pytest
from hash_runner import V
from serving import Replica

from sgl_runtime.messages import Aborted, Pooled, Sampling

POOLED = Sampling(max_new_tokens=0)
PROMPT = [1 + n % (V - 1) for n in range(30)]


def test_a_chunked_prompt_takes_no_pass_more_than_it_has_chunks() -> None:
    replica = Replica(answers="embeddings", chunked_prefill_size=16)
    rid = replica.add(PROMPT, POOLED)
    replica.finish()
    replica.check_answers()
    assert replica.runner.shapes == [([16], 0), ([14], 1)]
    assert replica.answers[rid].tokens == []
    assert isinstance(replica.answers[rid].finish, Pooled)
    assert replica.scheduler.load.generated_tokens == 0


def test_of_a_cached_prompt_the_last_token_is_computed_again() -> None:
    replica = Replica(answers="embeddings")
    for expected in (0, 29, 29):
        rid = replica.add(PROMPT, POOLED)
        replica.finish()
        assert replica.cached[rid] == expected
    replica.check_answers()
    assert replica.runner.shapes[-1] == ([1], 1)


@pytest.mark.parametrize("overlap", [False, True])
def test_a_prompt_may_fill_context_and_memory(overlap: bool) -> None:
    replica = Replica(answers="embeddings", slots=30, context_length=30, overlap=overlap)
    rids = [replica.add(PROMPT, POOLED) for _ in range(2)]
    replica.finish()
    replica.check_answers()
    replica.check_all_free()
    assert all(isinstance(replica.answers[rid].finish, Pooled) for rid in rids)


def test_a_vector_in_flight_for_an_aborted_request_is_dropped() -> None:
    replica = Replica(answers="embeddings", overlap=True)
    rid, other = replica.add(PROMPT, POOLED), replica.add(PROMPT[:5], POOLED)
    replica.launch()
    replica.abort(rid)
    replica.finish()
    assert replica.answers[rid].finish is None
    assert isinstance(replica.answers[other].finish, Pooled)
    replica.check_all_free()


def test_what_is_no_vector_ends_its_request_and_stays_out_of_the_cache() -> None:
    replica = Replica(answers="embeddings", invalid=1)
    rid = replica.add(PROMPT, POOLED)
    replica.finish()
    finish = replica.answers[rid].finish
    assert isinstance(finish, Aborted) and "NaN or infinity" in finish.reason
    assert replica.cache.size == 0


def test_a_pass_that_cannot_be_computed_has_no_vectors() -> None:
    replica = Replica(answers="embeddings")
    rid = replica.add(PROMPT, POOLED)
    replica.runner.failing = {0}
    replica.finish()
    finish = replica.answers[rid].finish
    assert isinstance(finish, Aborted) and finish.overloaded
    replica.check_all_free()
