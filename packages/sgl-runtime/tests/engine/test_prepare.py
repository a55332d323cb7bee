# SPDX-License-Identifier: Apache-2.0
"""What becomes of a prompt and its parameters before any replica hears of them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from scripted import BOS, CAPACITY, byte_tokenizer
from tokenizers.processors import TemplateProcessing

from sgl_runtime.engine.prepare import MAX_SAMPLES, Ask, Preparation, tightest
from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.messages import Capacity, LogprobSpec, Sampling

pytestmark = pytest.mark.anyio
TOKENIZER = byte_tokenizer()


def ask(prompt: str | list[int] = "hello", *, length: int | None = 128, **fields: Any) -> Ask:
    logprobs = fields.pop("logprobs", None)
    return Ask(
        prompt=prompt,
        source="text",
        sampling=SamplingBody(**fields),
        spell=lambda field: f"its.{field}",
        id="me",
        rid="us",
        default_length=length,
        logprobs=logprobs,
    )


def preparation(limits: Capacity = CAPACITY, **options: Any) -> Preparation:
    return Preparation(TOKENIZER, limits, seeds=random.Random(1), **options)


async def prepared(*asks: Ask, limits: Capacity = CAPACITY, **options: Any) -> PreparedRequest:
    return await preparation(limits, **options).prepare(asks)


async def sampling_of(*args: Any, **fields: Any) -> Sampling:
    return (await prepared(ask(*args, **fields))).samples[0].generate.sampling


async def refusal(*asks: Ask, limits: Capacity = CAPACITY) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        await prepared(*asks, limits=limits)
    assert caught.value.param is not None and caught.value.param in caught.value.message
    return caught.value


async def test_everything_given_arrives() -> None:
    sampling = await sampling_of(
        max_new_tokens=7,
        min_new_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        frequency_penalty=-1.0,
        presence_penalty=1.5,
        repetition_penalty=1.2,
        seed=11,
        stop=["a", "世"],
        stop_token_ids=[3, 4],
        ignore_eos=True,
        logit_bias={5: -100.0, 6: 1.0},
    )
    assert sampling == Sampling(
        max_new_tokens=7,
        min_new_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        min_p=0.1,
        frequency_penalty=-1.0,
        presence_penalty=1.5,
        repetition_penalty=1.2,
        seed=11,
        stop=(b"a", "世".encode()),
        stop_token_ids=(3, 4),
        ignore_eos=True,
        logit_bias=((5, -100.0), (6, 1.0)),
    )


async def test_nothing_given_is_the_default() -> None:
    sampling = await sampling_of()
    assert sampling == Sampling(seed=sampling.seed)
    assert 0 <= sampling.seed < 2**63


async def test_a_tiny_temperature_is_greedy() -> None:
    assert (await sampling_of(temperature=9e-7)).temperature == 0.0
    assert (await sampling_of(temperature=1e-6)).temperature == 1e-6


async def test_one_stop_string_need_not_be_a_list() -> None:
    assert (await sampling_of(stop="\n\n")).stop == (b"\n\n",)


async def test_samples_of_one_seed_use_consecutive_seeds() -> None:
    request = await prepared(ask(n=3, seed=2**63 - 2))
    assert [sample.generate.sampling.seed for sample in request.samples] == [2**63 - 2, 2**63 - 1, 0]
    assert (await sampling_of(seed=-1)).seed == 2**63 - 1


async def test_without_a_seed_every_prompt_draws_one_and_the_servers_seed_decides_it() -> None:
    first = await prepared(ask(), ask(n=2))
    again = await prepared(ask(), ask(n=2))
    seeds = [[sample.generate.sampling.seed for sample in request.samples] for request in (first, again)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 3


async def test_ids_on_the_wire_are_never_used_twice() -> None:
    scored = ask("x" * 100, n=2, logprobs=LogprobSpec(start=0))
    requests = [await prepared(ask(n=4), scored) for _ in range(2)]
    rids = [sample.generate.rid for request in requests for sample in request.samples]
    rids += [prompt.first.rid for request in requests for prompt in request.prompts if prompt.first]
    assert len(set(rids)) == len(rids) == 14
    assert [sample.id for sample in requests[0].samples] == ["me-0", "me-1", "me-2", "me-3", "me-0", "me-1"]
    assert [sample.index for sample in requests[0].samples] == [0, 1, 2, 3, 4, 5]
    assert requests[0].names >= {"us", "me-3"}


class TestLength:
    """The context has 512 tokens; `small` holds fewer."""

    small = Capacity(slots=100, rows=4, context_length=512, vocab_size=260)

    async def test_given_and_fitting(self) -> None:
        assert (await sampling_of("x" * 12, max_new_tokens=500)).max_new_tokens == 500

    async def test_given_and_too_long_names_both_numbers_and_the_remedy(self) -> None:
        error = await refusal(ask("x" * 13, max_new_tokens=500))
        assert error.param == "its.max_new_tokens"
        assert all(word in error.message for word in ("13 tokens", "500", "512", "at most 499"))

    async def test_beyond_memory(self) -> None:
        error = await refusal(ask("x" * 13, max_new_tokens=88), limits=self.small)
        assert all(word in error.message for word in ("13", "88", "100", "at most 87", "--max-total-tokens"))

    async def test_not_given_is_cut_to_what_fits(self) -> None:
        assert (await sampling_of("x" * 12)).max_new_tokens == 128
        assert (await sampling_of("x" * 500)).max_new_tokens == 12
        assert (await prepared(ask("x" * 90), limits=self.small)).samples[
            0
        ].generate.sampling.max_new_tokens == 10

    async def test_no_default_is_all_that_fits(self) -> None:
        assert (await sampling_of("x" * 12, length=None)).max_new_tokens == 500

    async def test_a_prompt_that_fills_the_context_can_only_be_computed(self) -> None:
        assert (await sampling_of("x" * 512, max_new_tokens=0)).max_new_tokens == 0
        assert (await refusal(ask("x" * 512, max_new_tokens=1))).param == "its.max_new_tokens"
        with pytest.raises(InvalidRequest, match="fills the context of 512 tokens"):
            await prepared(ask("x" * 512))

    async def test_a_prompt_beyond_the_context(self) -> None:
        error = await refusal(ask("x" * 513, max_new_tokens=0))
        assert (error.param, "513 tokens" in error.message, "512" in error.message) == ("text", True, True)

    async def test_min_new_tokens_beyond_what_will_come(self) -> None:
        assert (await refusal(ask(max_new_tokens=3, min_new_tokens=4))).param == "its.min_new_tokens"
        assert (await sampling_of(max_new_tokens=3, min_new_tokens=3)).min_new_tokens == 3


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_k": 0}, "its.top_k"),
        ({"stop_token_ids": [1, 260]}, "its.stop_token_ids"),
        ({"logit_bias": {260: 1.0}}, "its.logit_bias"),
        ({"logit_bias": {-1: 1.0}}, "its.logit_bias"),
        ({"regex": "a("}, "its.regex"),
        ({"regex": r"(a)\1"}, "its.regex"),
        ({"regex": "\ud800"}, "its.regex"),
        ({"json_schema": "{"}, "its.json_schema"),
        ({"json_schema": {"type": "nothing"}}, "its.json_schema"),
        ({"json_schema": False}, "its.json_schema"),
        ({"ebnf": "root ::= other"}, "its.ebnf"),
        ({"regex": "a", "ebnf": 'root ::= "a"'}, "its.ebnf"),
        ({"stop_regex": "a"}, "its.stop_regex"),
        ({"logprobs": LogprobSpec(start=6)}, "its.logprob_start_len"),
        ({"logprobs": LogprobSpec(start=-2)}, "its.logprob_start_len"),
        ({"logprobs": LogprobSpec(top=-1)}, "its.top_logprobs_num"),
        ({"logprobs": LogprobSpec(top=257)}, "its.top_logprobs_num"),
    ],
)
async def test_refused(fields: dict[str, Any], param: str) -> None:
    assert (await refusal(ask(**fields))).param == param


@pytest.mark.parametrize("prompt", ["", [], [260], [-1], [1, 2, 2**70]])
async def test_prompts_that_are_none(prompt: str | list[int]) -> None:
    assert (await refusal(ask(prompt))).param == "text"


async def test_too_many_samples() -> None:
    assert (await refusal(*[ask(n=1024)] * (MAX_SAMPLES // 1024), ask())).param == "its.n"


async def test_begin_of_sequence_is_the_askers_choice() -> None:
    tokenizer = byte_tokenizer()
    tokenizer._backend.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    maker = Preparation(tokenizer, CAPACITY, seeds=random.Random(1))
    plain = ask("a")
    written = Ask(
        prompt="a",
        source="x",
        sampling=SamplingBody(),
        spell=str,
        id="",
        rid="",
        default_length=1,
        add_special=False,
    )
    request = await maker.prepare([plain, written])
    assert [prompt.tokens for prompt in request.prompts] == [[BOS, 97], [97]]


async def test_long_texts_give_the_same_tokens_as_short_ones() -> None:
    limits = Capacity(slots=20_000, rows=8, context_length=20_000, vocab_size=260)
    request = await prepared(ask("x" * 9000), ask("é"), limits=limits)
    assert [len(prompt.tokens) for prompt in request.prompts] == [9000, 2]


class TestLogprobsOfThePrompt:
    async def test_several_samples_ask_for_them_once_and_first(self) -> None:
        (prompt,) = (await prepared(ask("hello", n=2, logprobs=LogprobSpec(start=1, top=2)))).prompts
        assert prompt.first is not None
        assert (prompt.first.tokens, prompt.first.logprobs) == (prompt.tokens, LogprobSpec(start=1, top=2))
        assert prompt.first.sampling.max_new_tokens == 0
        assert [sample.generate.logprobs for sample in prompt.samples] == [LogprobSpec(start=-1, top=2)] * 2

    async def test_a_single_sample_asks_itself(self) -> None:
        (prompt,) = (await prepared(ask("hello", logprobs=LogprobSpec(start=1, top=2)))).prompts
        assert prompt.first is None
        assert prompt.samples[0].generate.logprobs == LogprobSpec(start=1, top=2)

    async def test_those_of_the_answer_need_nothing_first(self) -> None:
        for start in (-1, 5):
            (prompt,) = (await prepared(ask("hello", n=2, logprobs=LogprobSpec(start=start, top=2)))).prompts
            assert prompt.first is None
            assert prompt.samples[1].generate.logprobs == LogprobSpec(start=-1, top=2)


async def test_without_a_tokenizer_there_are_token_ids_only() -> None:
    maker = Preparation(None, CAPACITY, seeds=random.Random(1))
    assert (await maker.prepare([ask([1, 2])])).prompts[0].tokens == [1, 2]
    for bad, param in ((ask("text"), "text"), (ask([1], stop="x"), "its.stop")):
        with pytest.raises(InvalidRequest) as caught:
            await maker.prepare([bad])
        assert caught.value.param == param


def test_the_tightest_replica_limits_all() -> None:
    replicas = [Capacity(9, 2, 30, 40), Capacity(8, 3, 20, 50)]
    assert tightest(replicas) == Capacity(8, 2, 20, 40)
