# SPDX-License-Identifier: Apache-2.0
"""Constrained requests: what grammars allow and force, when texts end, and that nobody waits for another."""

from __future__ import annotations

import re
import threading
from typing import Any

import msgspec
import numpy as np
import pytest
from hash_runner import COMPILER, EOS, VOCABULARY, V, encode_text, regex
from serving import GREEDY, Replica
from sgl_constrain import Compiler, Grammar, GrammarTooLarge, Limits

from sgl_runtime.messages import (
    Aborted,
    Batch,
    Constraint,
    LogprobSpec,
    Sampling,
    StoppedByConstraint,
    StoppedByLength,
    StoppedByString,
    StoppedByToken,
)
from sgl_runtime.scheduler.constraint import CompiledGrammar, Constrained, Grammars

FREE = Sampling(max_new_tokens=30, temperature=0.0, ignore_eos=True)


def constrained(pattern: str, **changes: Any) -> Sampling:
    return msgspec.structs.replace(FREE, constraint=regex(pattern), **{"ignore_eos": False, **changes})


def text(replica: Replica, rid: str) -> str:
    return b"".join(VOCABULARY[token] for token in replica.answers[rid].tokens if token not in EOS).decode()


def done(replica: Replica) -> None:
    replica.finish()
    replica.check_answers()
    replica.check_all_free()


def planned(replica: Replica) -> Batch:
    """The next batch, which then runs and is committed."""
    batch = replica.scheduler.plan()
    assert batch is not None
    replica.receive(replica.scheduler.commit(replica.runner.forward(batch, replica._masks)))
    return batch


# ------------------------------------------------------------------------------------------------- the text


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("jumps", [False, True])
def test_a_finished_text_is_in_the_language(jumps: bool, overlap: bool) -> None:
    patterns = [r"abcabcabc", r"(a|b){3,5} abcabc(d|c)", r"中{2}abc( a| d){1,3}", r"[abcd]{1,8}d"]
    replica = Replica(jumps=jumps, overlap=overlap, slots=400, rows=8)
    rids = {replica.add([1 + i], constrained(pattern)): pattern for i, pattern in enumerate(patterns)}
    done(replica)
    for rid, pattern in rids.items():
        assert not isinstance(replica.answers[rid].finish, StoppedByLength)
        assert re.fullmatch(pattern, text(replica, rid))


def test_a_text_does_not_depend_on_jumps_and_overlap() -> None:
    told = []
    for jumps in (False, True):
        for overlap in (False, True):
            replica = Replica(jumps=jumps, overlap=overlap, slots=400)
            for seed in range(4):
                sampling = constrained(r"( abc(a|b|d)abcabcabc){2,9}d", temperature=1.0, seed=seed)
                replica.add([1, 2, 3], msgspec.structs.replace(sampling, frequency_penalty=1.0))
            done(replica)
            told.append([(answer.tokens, answer.finish) for answer in replica.answers.values()])
    assert told[0] == told[1] == told[2] == told[3]


def test_log_probabilities_are_those_of_the_tokens_with_and_without_jumps() -> None:
    """check_answers compares every one with the model's."""
    for overlap in (False, True):
        replica = Replica(overlap=overlap)
        rid = replica.add([1, 2], constrained("abcabcabc(d|a)abc"), LogprobSpec(start=0, top=2))
        plain = replica.add([1, 2], constrained("abcabcabc(d|a)abc"))
        done(replica)
        assert replica.answers[rid].tokens == replica.answers[plain].tokens
        assert len(replica.answers[rid].output_logprobs) == len(replica.answers[rid].tokens)


# --------------------------------------------------------------------------------------------------- ends


def test_a_text_that_is_complete_ends_without_an_end_token() -> None:
    replica = Replica()
    rid = replica.add([1], constrained("(a|b)c"))
    done(replica)
    assert replica.answers[rid].finish == StoppedByConstraint()
    assert not EOS & set(replica.answers[rid].tokens)


def test_a_text_that_may_go_on_ends_with_the_end_token() -> None:
    replica = Replica()
    rid = replica.add([1], constrained("[abcd]*", logit_bias=((0, 3.0),)))
    done(replica)
    assert replica.answers[rid].finish == StoppedByToken(0)


def test_ignore_eos_keeps_the_end_token_out_and_still_ends_where_nothing_can_follow() -> None:
    replica = Replica()
    greedy = {"ignore_eos": True, "logit_bias": ((0, 50.0),)}
    endless = replica.add([1], constrained("[abcd]*", **greedy))
    finite = replica.add([2], constrained("[abcd]{0,3}", **greedy))
    done(replica)
    assert replica.answers[endless].finish == StoppedByLength(30)
    assert replica.answers[finite].finish == StoppedByConstraint()
    assert not EOS & {*replica.answers[endless].tokens, *replica.answers[finite].tokens}


def test_min_new_tokens_puts_off_the_end_as_long_as_the_grammar_goes_on() -> None:
    replica = Replica()
    eager = {"logit_bias": ((0, 50.0),), "min_new_tokens": 5}
    rid = replica.add([1], constrained("[abcd]*", **eager))
    short = replica.add([2], constrained("ab|ba", **eager))
    done(replica)
    assert len(replica.answers[rid].tokens) == 6
    assert replica.answers[short].finish == StoppedByConstraint()


def test_a_stop_token_is_allowed_where_the_text_may_end_whatever_it_spells() -> None:
    replica = Replica()
    sampling = constrained("abc+", stop_token_ids=(11,), logit_bias=((11, 50.0),))
    rid = replica.add([1], sampling)
    done(replica)
    tokens = replica.answers[rid].tokens
    assert tokens[-1] == 11 and replica.answers[rid].finish == StoppedByToken(11)
    assert re.fullmatch("abc+", b"".join(VOCABULARY[token] for token in tokens[:-1]).decode())


def test_forced_text_ends_at_a_stop_string_and_at_the_limit() -> None:
    replica = Replica()
    stopped = replica.add([1], constrained("abcabcabcabc", stop=(b"cab",)))
    cut = replica.add([2], constrained("abcabcabcabc", max_new_tokens=3))
    done(replica)
    assert replica.answers[stopped].finish == StoppedByString(b"cab")
    assert text(replica, stopped) == "abcabc"
    assert replica.answers[cut].finish == StoppedByLength(3)
    assert replica.runner.shapes == []  # all of it was certain before anything was computed


def test_what_bias_forbids_and_the_grammar_demands_ends_that_request_alone() -> None:
    replica = Replica(jumps=False)
    sampling = constrained("[ab]c", logit_bias=((3, -np.inf), (5, -np.inf)))
    impossible, other = replica.add([1], sampling), replica.add([2], GREEDY)
    done(replica)
    finish = replica.answers[impossible].finish
    assert isinstance(finish, Aborted) and "logit_bias" in finish.reason
    assert not isinstance(replica.answers[other].finish, Aborted)


# --------------------------------------------------------------------------------------------------- jumps


def test_what_is_forced_at_the_start_is_computed_with_the_prompt() -> None:
    replica = Replica()
    rid = replica.add([1, 2, 3], constrained("abcabcabc(d|b)"))
    assert planned(replica).q_lens.tolist() == [3 + 3]
    assert text(replica, rid) in ("abcabcabcd", "abcabcabcb")
    done(replica)


def test_a_row_that_jumps_joins_the_decoding_rows_in_one_pass() -> None:
    replica = Replica(slots=400)
    free = replica.add([1, 2], FREE)
    replica.add([3], constrained("[ab]{2}cabcabcabc[ab]{3}"))
    shapes = []
    while replica.answers[free].finish is None:
        shapes.append(planned(replica).q_lens.tolist())
    jump = next(shape for shape in shapes[1:] if max(shape) > 1)
    assert sorted(jump)[0] == 1 and sorted(jump)[1] > 2
    assert len(replica.answers[free].tokens) == len(shapes), "the other row gets a token in every pass"
    done(replica)


def test_jumps_save_passes_and_are_counted() -> None:
    steps = {}
    for jumps in (False, True):
        replica = Replica(jumps=jumps, slots=400)
        rid = replica.add([1], constrained("([ab]cabcabcabc){4}"))
        done(replica)
        steps[jumps] = replica.scheduler.load.steps
        forced = len(replica.answers[rid].tokens) - steps[jumps]
        assert replica.forced == replica.scheduler.load.forced_tokens == (forced if jumps else 0)
    assert steps[True] * 3 < steps[False]


def test_a_long_jump_is_cut_to_the_budget_of_a_pass() -> None:
    replica = Replica(slots=400, chunked_prefill_size=4, max_prefill_tokens=6)
    for first in (1, 2, 3):
        replica.add([first], constrained("[ab]" + "cab" * 8 + "d[ab]{2}"))
    done(replica)
    jumps = [[q for q in q_lens if q > 1] for q_lens, _ in replica.runner.shapes]
    assert max(map(sum, jumps)) == 6 and max(max(each, default=0) for each in jumps) == 4


# ----------------------------------------------------------------------------------------------- grammars


@pytest.mark.parametrize("overlap", [False, True])
def test_nobody_waits_for_the_grammar_of_another(overlap: bool) -> None:
    replica = Replica(overlap=overlap)
    replica.grammars.late = True
    late, other = replica.add([1], constrained("[ab]{4}")), replica.add([2], GREEDY)
    for _ in range(20):
        replica.step()
    assert replica.answers[other].finish is not None and not replica.answers[late].tokens
    assert replica.scheduler.compiling and replica.scheduler.load.waiting == 1 and not replica.scheduler.idle
    done(replica)
    assert re.fullmatch("[ab]{4}", text(replica, late))


def test_a_request_is_aborted_while_its_grammar_is_compiled() -> None:
    replica = Replica()
    replica.grammars.late = True
    rid = replica.add([1], constrained("a+"))
    replica.abort(rid)
    assert replica.scheduler.idle and not replica.scheduler.compiling
    done(replica)


def test_a_grammar_that_does_not_compile_ends_its_request_alone() -> None:
    replica = Replica()
    wrong, other = replica.add([1], constrained("a(")), replica.add([2], GREEDY)
    replica.finish()
    finish = replica.answers[wrong].finish
    assert isinstance(finish, Aborted) and finish.invalid and "a(" in finish.reason
    assert replica.answers[other].finish is not None
    replica.check_all_free()


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("method", ["mask", "step"])
def test_a_grammar_that_grows_too_large_ends_its_request_alone(
    method: str, overlap: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = Replica(overlap=overlap)
    large, other = replica.add([1], constrained("[ab]{20}")), replica.add([2], FREE)
    for _ in range(4):
        replica.step()
    plain = getattr(Grammar, method)
    hostile = replica.scheduler._requests[large].constrained.compiled.grammar  # type: ignore[union-attr]

    def limited(self: Grammar, *arguments: int) -> Any:
        if self is hostile:
            raise GrammarTooLarge("more than 2 seconds", limit="seconds")
        return plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Grammar, method, limited)
        replica.finish()
    finish = replica.answers[large].finish
    assert isinstance(finish, Aborted) and finish.invalid and "2 seconds" in finish.reason
    assert replica.answers[other].finish == StoppedByLength(30)
    replica.check_all_free()


def test_without_grammars_a_constraint_is_refused() -> None:
    replica = Replica(grammars=None)
    rid = replica.add([1], constrained("a"))
    replica.receive(replica.scheduler.take_deltas())
    finish = replica.answers[rid].finish
    assert isinstance(finish, Aborted) and finish.invalid and "tokenizer" in finish.reason


def test_grammars_compile_on_their_own_thread_once_and_are_forgotten_beyond_the_memory() -> None:
    compiled: list[tuple[str, int]] = []

    def compile(constraint: Constraint) -> Grammar:
        compiled.append((constraint.text, threading.get_ident()))
        return Compiler(COMPILER.vocabulary, limits=Limits()).regex(constraint.text)

    grammars = Grammars(compile, cache_bytes=0)
    first = grammars.ask(regex("a+")).result()
    assert grammars.ask(regex("a+")).result() is first
    assert isinstance(grammars.ask(regex("a(")).exception(), ValueError)
    assert isinstance(grammars.ask(regex("a(")).exception(), ValueError)
    assert [pattern for pattern, _ in compiled] == ["a+", "a(", "a("]
    assert threading.get_ident() not in {thread for _, thread in compiled}
    for _ in range(64):
        grammars.ask(regex("b+")).result()
    assert grammars.ask(regex("a+")).result() is not first
    grammars.close()


def test_grammars_are_measured_with_what_was_found_out_about_them() -> None:
    compiled = CompiledGrammar(COMPILER.regex("abcabc[ab]"))
    constrained = Constrained(compiled, ends=EOS, shortest=0)
    compiled.forced(constrained.matcher, encode_text)
    alone = compiled.nbytes
    compiled.single(1)
    assert compiled.nbytes > alone > compiled.grammar.nbytes > 0


def test_grammars_are_measured_with_their_sources() -> None:
    grammars = Grammars(lambda constraint: COMPILER.regex("a"), cache_bytes=2 << 20)
    for number in range(64):
        grammars.ask(regex(f"{number}" + "a" * 100_000)).result()
    assert 10 < len(grammars._known) <= 21, "2 MiB, and the one that was being compiled"
    grammars.close()


def test_a_grammar_that_failed_is_forgotten_when_they_are_measured() -> None:
    grammars = Grammars(lambda constraint: COMPILER.regex(constraint.text))
    assert grammars.ask(regex("a(")).exception() is not None
    for _ in range(63):
        grammars.ask(regex("b+")).result()
    assert list(grammars._known) == [regex("b+")]
    grammars.close()


def test_equal_masks_are_one_object() -> None:
    compiled = CompiledGrammar(COMPILER.regex("[ab]{2,9}"))
    left, right = (Constrained(compiled, ends=EOS, shortest=0) for _ in range(2))
    left.accept(1)
    right.accept(2)
    assert left.mask(1) is right.mask(1)
    assert not left.mask(1).flags.writeable and len(left.mask(1)) == -(-V // 32)
