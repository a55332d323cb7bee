# SPDX-License-Identifier: Apache-2.0
"""A stream, put together, is the answer: for every endpoint, any text, any stop, any pace."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import EOS, Script, byte_tokenizer
from served import served

from sgl_runtime.messages import Generate

TOKENIZER = byte_tokenizer()
TEXTS = st.one_of(
    st.text(alphabet="ab世é\n<", max_size=12).map(str.encode),
    st.binary(max_size=12),  # not always UTF-8
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stop": st.lists(st.sampled_from(["a", "ab", "世", "b\n", "<eos>", "é世"]), min_size=1, max_size=2),
        "n": st.integers(1, 3),
        "ignore_eos": st.booleans(),
        "skip_special_tokens": st.booleans(),
        "include_stop_str_in_output": st.booleans(),
        "stop_token_ids": st.just([0x62]),
    },
)


class Case:
    """What the engine will say, and at which pace it and the reader go on."""

    def __init__(self, texts: list[bytes], per_step: int, pauses: int, interval: int) -> None:
        self.texts, self.per_step, self.pauses, self.interval = texts, per_step, pauses, interval

    def __repr__(self) -> str:
        return f"Case({self.texts}, {self.per_step}, {self.pauses}, {self.interval})"

    def answer_to(self, generate: Generate) -> list[int]:
        return [*self.texts[generate.sampling.seed % len(self.texts)], EOS]

    async def both(self, path: str, body: dict[str, Any]) -> tuple[Any, list[Any]]:
        """The answer as a whole, and the events of the same request as a stream."""
        script = Script(answer=self.answer_to, per_step=self.per_step)
        script.pauses = self.pauses
        async with served(script, tokenizer=TOKENIZER, stream_interval=self.interval) as server:
            whole = await server.answer(path, body)
            events = await server.events(path, {**body, "stream": True})
            assert server.api.client.in_flight == [0]
            assert script.aborts == []
        return whole, events


CASES = st.builds(
    Case,
    st.lists(TEXTS, min_size=1, max_size=3),
    per_step=st.integers(1, 4),
    pauses=st.sampled_from([0, 10]),
    interval=st.integers(1, 3),
)
SLOW = settings(max_examples=60, deadline=None)


@SLOW
@given(case=CASES, sampling=FIELDS, many=st.booleans(), logprob=st.booleans(), length=st.integers(0, 15))
def test_generate(case: Case, sampling: dict[str, Any], many: bool, logprob: bool, length: int) -> None:
    body = {
        "text": ["one", "two"] if many else "one",
        "sampling_params": {**sampling, "seed": 0, "max_new_tokens": length},
        "return_logprob": logprob,
        "top_logprobs_num": 2,
        "return_text_in_logprobs": True,
        "rid": "mine",
    }
    whole, events = asyncio.run(case.both("/generate", body))
    answers = whole if isinstance(whole, list) else [whole]
    by_index: dict[int, list[Any]] = {}
    for event in events:
        assert ("index" in event) == isinstance(whole, list)
        by_index.setdefault(event.pop("index", 0), []).append(event)
    for index, answer in enumerate(answers):
        mine = by_index[index]
        for event in (answer, *mine):
            del event["meta_info"]["cached_tokens"]  # the second time there is more in the cache
        assert mine[-1] == answer
        for before, after in pairwise(mine):
            assert after["text"].startswith(before["text"])
            assert after["meta_info"]["completion_tokens"] >= before["meta_info"]["completion_tokens"]
            assert before["meta_info"]["finish_reason"] is None


@SLOW
@given(
    case=CASES, fields=FIELDS, many=st.booleans(), echo=st.booleans(), logprobs=st.none() | st.integers(0, 2)
)
def test_completions(
    case: Case, fields: dict[str, Any], many: bool, echo: bool, logprobs: int | None
) -> None:
    body = {
        **fields,
        "prompt": ["öne", "two"] if many else "öne",
        "seed": 0,
        "echo": echo,
        "logprobs": logprobs,
    }
    whole, events = asyncio.run(case.both("/v1/completions", body))
    for choice in whole["choices"]:
        parts = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [
            choice["finish_reason"]
        ]
        if choice["logprobs"] is None:
            assert all(part["logprobs"] is None for part in parts)
            continue
        for name, values in choice["logprobs"].items():
            if values is not None:
                assert [value for part in parts for value in part["logprobs"][name]] == values
        assert choice["logprobs"]["text_offset"] == sorted(choice["logprobs"]["text_offset"])


@SLOW
@given(case=CASES, fields=FIELDS, top=st.none() | st.integers(0, 2))
def test_chat(case: Case, fields: dict[str, Any], top: int | None) -> None:
    body = {
        **fields,
        "messages": [{"role": "user", "content": "one"}],
        "max_tokens": 20,
        "seed": 0,
        **({} if top is None else {"logprobs": True, "top_logprobs": top}),
    }
    whole, events = asyncio.run(case.both("/v1/chat/completions", body))
    for choice in whole["choices"]:
        parts = [part for event in events for part in event["choices"] if part["index"] == choice["index"]]
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        assert [part["delta"].get("role") for part in parts] == ["assistant"] + [None] * (len(parts) - 1)
        assert [part["finish_reason"] for part in parts] == [None] * (len(parts) - 1) + [
            choice["finish_reason"]
        ]
        entries = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
        assert entries == ([] if top is None else choice["logprobs"]["content"])
    usage = whole["usage"]
    if top is not None:
        assert usage["completion_tokens"] == sum(len(c["logprobs"]["content"]) for c in whole["choices"])
