# SPDX-License-Identifier: Apache-2.0
"""A pass for which the device has not the memory ends its requests, and leaves nothing of them behind."""

from __future__ import annotations

import msgspec
from hash_runner import regex
from serving import GREEDY, Replica

from sgl_runtime.messages import Aborted, Sampling

LONG = Sampling(max_new_tokens=30, temperature=0.0, ignore_eos=True)


def failed(replica: Replica, rid: str) -> bool:
    finish = replica.answers[rid].finish
    return isinstance(finish, Aborted) and finish.overloaded and "no memory left" in finish.reason


def test_a_prompt_fails_and_who_decodes_goes_on() -> None:
    replica = Replica(slots=200)
    old = replica.add([1, 2, 3], LONG)
    replica.step()
    new = replica.add([4, 5, 6, 7], LONG)
    replica.runner.failing = {1}
    replica.finish()
    assert failed(replica, new) and not failed(replica, old)
    replica.check_answers()
    again = replica.add([4, 5, 6, 7], LONG)
    replica.finish()
    assert not failed(replica, again)
    replica.check_answers()
    replica.check_all_free()


def test_who_found_the_tokens_of_a_prompt_that_fails_fails_with_it() -> None:
    replica = Replica(slots=200, schedule_policy="fcfs")
    twins = [replica.add([4, 5, 6, 7], LONG) for _ in range(2)]
    replica.runner.failing = {0}
    replica.step()
    assert all(failed(replica, rid) for rid in twins)
    replica.add([4, 5, 6, 7], LONG)
    replica.finish()
    replica.check_answers()
    replica.check_all_free()


def test_the_last_token_of_who_ends_meanwhile_is_not_cached() -> None:
    replica = Replica(slots=200, overlap=True)
    ends = replica.add([1, 2, 3], msgspec.structs.replace(LONG, max_new_tokens=3))
    stays = replica.add([4, 5], Sampling(max_new_tokens=20, constraint=regex("[abcd]{18,20}")))
    while len(replica.answers[ends].tokens) < 2:
        replica.step()
    replica.runner.failing = {0, 1}  # its surplus token
    replica.step()
    assert failed(replica, stays) and replica.answers[ends].finish is not None
    replica.add(replica.sent[ends].tokens + replica.answers[ends].tokens + [5], GREEDY)
    replica.finish()
    replica.check_answers()
    replica.check_all_free()
