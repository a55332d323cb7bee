# SPDX-License-Identifier: Apache-2.0
"""`Serving`: a machine that does everything to a replica in any order; answers and books must always be
right.

Random memory sizes, chunk sizes, concurrency, policies, with and without cache, mixing and overlap; prompts
that share prefixes and continue earlier answers; aborts and flushes between any two operations.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
from hash_runner import V, regex
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from serving import Replica

from sgl_runtime.messages import LogprobSpec, Sampling

POOLED = Sampling(max_new_tokens=0)
SYSTEM = [1 + (7 * i + i * i // 3) % (V - 1) for i in range(44)]


def configurations() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "slots": st.one_of(st.integers(24, 60), st.integers(4, 160)),
            "rows": st.sampled_from([4, 6, 3, 2, 1]),
            "context_length": st.sampled_from([72, 48, 24, 8]),
            "radix": st.sampled_from([True, True, False]),
            "overlap": st.booleans(),
            "invalid": st.sampled_from([0, 199]),
            "answers": st.sampled_from(["text", "text", "text", "embeddings"]),
            "jumps": st.sampled_from([True, True, False]),
            "chunked_prefill_size": st.sampled_from([8, 64, 3, 1, 0]),
            "max_prefill_tokens": st.sampled_from([16, 256, 5, 1]),
            "enable_mixed_chunk": st.booleans(),
            "shared_least": st.sampled_from([1, 3, None]),
            "schedule_policy": st.sampled_from(["lpm", "fcfs", "random", "dfs-weight", "lof"]),
            # Negative is reckless: memory runs out all the time.
            "schedule_conservativeness": st.sampled_from([-20.0, -3.0, 1.0]),
        }
    )


def prompts() -> st.SearchStrategy[list[int]]:
    tokens = st.integers(1, V - 1)
    alone = st.lists(tokens, min_size=1, max_size=12)
    sharing = st.builds(
        lambda shared, rest: SYSTEM[:shared] + rest,
        st.sampled_from([3, 9, 10, 40]),
        st.lists(tokens, max_size=4),
    )
    return st.one_of(alone, sharing)


def samplings() -> st.SearchStrategy[Sampling]:
    plain = st.builds(
        Sampling,
        max_new_tokens=st.sampled_from([40, 12, 20, 5, 2, 1, 0]),
        temperature=st.sampled_from([0.75, 0.0]),
        seed=st.integers(0, 2**63 - 1),
        ignore_eos=st.sampled_from([True, True, False]),
    )
    full = st.builds(
        Sampling,
        max_new_tokens=st.sampled_from([20, 40, 5, 1, 0]),
        min_new_tokens=st.integers(0, 4),
        temperature=st.sampled_from([0.0, 0.5, 2.0]),
        top_p=st.sampled_from([1.0, 0.5]),
        top_k=st.sampled_from([-1, 3]),
        min_p=st.sampled_from([0.0, 0.25]),
        frequency_penalty=st.sampled_from([0.0, 0.5, 2.0]),
        presence_penalty=st.sampled_from([0.0, -0.25]),
        repetition_penalty=st.sampled_from([1.0, 1.5]),
        seed=st.integers(0, 2**63 - 1),
        stop=st.sampled_from([(), (b"ab",), (b"ca", b"bab"), (b"\xe4\xb8\xad", b"dd"), (b"abcab",)]),
        stop_token_ids=st.sampled_from([(), (3,), (0, 5)]),
        ignore_eos=st.booleans(),
        logit_bias=st.sampled_from([(), ((1, 2.5), (2, -1.0)), ((0, 3.0),)]),
    )
    return st.one_of(plain, full, constrained(plain), constrained(full))


PATTERNS = (
    r"abcabcabcabcabcabcabc",  # no choice at all
    r"[abcd]{3,20}",
    r"( abc(a|b|d)abcabcabc){2,9}d",
    r"(a|b)*c{9}( a|d)+中{1,4}abcabc",
    r"[^d]+",  # never complete, may always end
    r"(abcd?){0,30}",
    r"([a-d]{2}bbb){3,9}",  # what is forced is penalised where there is a choice
    r"a{1,2}b",
    r"中+( abcabcabcabc| abcabcabcdddd)a",
)


def constrained(samplings: st.SearchStrategy[Sampling]) -> st.SearchStrategy[Sampling]:
    constraints = st.sampled_from(PATTERNS).map(regex)
    return st.builds(
        lambda sampling, constraint: msgspec.structs.replace(sampling, constraint=constraint),
        samplings,
        constraints,
    )


def logprob_specs() -> st.SearchStrategy[LogprobSpec | None]:
    after = st.sampled_from([(), (1,), (3, 1, 3)])
    some = st.builds(LogprobSpec, start=st.sampled_from([-1, 0, 1, 5]), top=st.integers(0, 2), after=after)
    return st.one_of(st.none(), st.none(), some)


class Serving(RuleBasedStateMachine):
    replica: Replica

    @initialize(configuration=configurations())
    def start(self, configuration: dict[str, Any]) -> None:
        self.replica = Replica(**configuration)

    @rule(
        prompt=prompts(),
        sampling=samplings(),
        logprobs=logprob_specs(),
        copies=st.sampled_from([1, 2, 4]),
        every=st.sampled_from([1, 2, 5, 16]),
    )
    def add(
        self,
        prompt: list[int],
        sampling: Sampling,
        logprobs: LogprobSpec | None,
        copies: int,
        every: int,
    ) -> None:
        if self.replica.pools:
            sampling, logprobs = POOLED, None
        room = self.replica.capacity.context_length - (1 if sampling.max_new_tokens else 0)
        prompt = prompt[: min(room, self.replica.capacity.slots)]
        if logprobs is not None and logprobs.start > len(prompt):
            logprobs = None
        for _ in range(copies):
            self.replica.add(prompt, sampling, logprobs, every=every)

    @rule(several=st.lists(st.tuples(prompts(), samplings()), min_size=3, max_size=6))
    def add_several(self, several: list[tuple[list[int], Sampling]]) -> None:
        for prompt, sampling in several:
            self.add(prompt, sampling, None, 1, len(prompt))

    @precondition(lambda self: self.replica.sent)
    @rule(which=st.integers(0, 99), more=st.lists(st.integers(1, V - 1), max_size=3), sampling=samplings())
    def continue_dialogue(self, which: int, more: list[int], sampling: Sampling) -> None:
        rid = f"r{which % len(self.replica.sent)}"
        said = self.replica.sent[rid].tokens + self.replica.answers[rid].tokens
        self.add(said + more, sampling, None, 1, 1 + len(more))

    @rule(turns=st.integers(1, 12))
    def serve(self, turns: int) -> None:
        for _ in range(turns):
            self.replica.step()
            self.replica.check_books()

    @precondition(lambda self: len(self.replica.launched) <= self.replica.overlap)
    @rule()
    def launch(self) -> None:
        self.replica.launch()

    @rule()
    def land(self) -> None:
        self.replica.land()

    @precondition(lambda self: self.replica.sent)
    @rule(which=st.integers(0, 99))
    def abort(self, which: int) -> None:
        self.replica.abort(f"r{which % len(self.replica.sent)}")

    @rule(late=st.booleans())
    def compile(self, late: bool) -> None:
        self.replica.grammars.late = late
        self.replica.grammars.compile()

    @rule()
    def flush(self) -> None:
        busy = any(
            answer.finish is None and rid not in self.replica.aborted
            for rid, answer in self.replica.answers.items()
        )
        assert self.replica.scheduler.flush() is not busy

    @invariant()
    def books(self) -> None:
        if hasattr(self, "replica"):
            self.replica.check_books()

    def teardown(self) -> None:
        if hasattr(self, "replica"):
            self.replica.finish()
            self.replica.check_answers()
            self.replica.check_all_free()


class Scarce(Serving):
    """The same on a device that has not the memory for some passes: requests end early, and others are to see
    nothing of it."""

    @rule(places=st.sets(st.integers(0, 5), min_size=1, max_size=2))
    def run_out_of_memory(self, places: set[int]) -> None:
        self.replica.runner.failing = places


CI = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    stateful_step_count=30,
    suppress_health_check=list(HealthCheck),
)
