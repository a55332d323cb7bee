# SPDX-License-Identifier: Apache-2.0
"""/v1/score and /v1/decisions over the scripted engine: a token is a byte, its log-probability `logprob`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tokenizers
from scripted import BOS, TEMPLATE, Script, logprob
from served import served
from tokenizers import decoders, models, pre_tokenizers

from sgl_runtime.text.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio


def mean(text: str) -> float:
    return float(np.mean([logprob(byte) for byte in text.encode()]))


async def test_scores_are_of_the_token_behind_query_and_item() -> None:
    script = Script()
    async with served(script) as server:
        body = {"query": "ab", "items": ["c", "de"], "label_token_ids": [5, 200]}
        answer = await server.answer("/v1/score", body)
        row = [pytest.approx(math.exp(logprob(label))) for label in (5, 200)]
        assert answer["scores"] == [row, row]
        assert (answer["object"], answer["model"]) == ("scoring", "tiny")
        assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        sent = [bytes(generate.tokens) for generate in script.generates]
        assert sent == [b"abc", b"abde"]
        assert all(generate.sampling.max_new_tokens == 0 for generate in script.generates)
        await server.answer("/v1/score", {**body, "items": "xy", "item_first": True})
        assert bytes(script.generates[-1].tokens) == b"xyab"
        ids = {"query": [97, 98], "items": [[99], [100, 101]], "label_token_ids": [5, 200]}
        assert (await server.answer("/v1/score", ids))["scores"] == [row, row]
        assert sent == [bytes(generate.tokens) for generate in script.generates[-2:]]
        full = {"query": "a", "items": ["b" * 511], "label_token_ids": [5, 200]}
        assert (await server.answer("/v1/score", full))["scores"] == [row], "a label needs no room"


async def test_shares_of_the_labels_sum_to_one() -> None:
    async with served() as server:
        body = {"query": "a", "items": ["b"], "label_token_ids": [5, 200, 7], "apply_softmax": True}
        [shares] = (await server.answer("/v1/score", body))["scores"]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] / shares[1] == pytest.approx(math.exp(logprob(5) - logprob(200)))


@pytest.mark.parametrize(
    ("method", "choices", "chosen", "scored"),
    [
        ("token_length_normalized", ["b", "aaaa"], 1, [mean("b"), mean("aaaa")]),
        ("total_likelihood", ["b", "aaaa"], 0, [mean("b"), 4 * mean("aaaa")]),
        ("greedy_token_selection", ["ac", "ab", "az"], 1, [1.0, 2.0, 1.0]),
        # Shorter than the other: it goes on with its mean.
        ("greedy_token_selection", ["a", "ab"], 0, [2.0, 1.0]),
        ("unconditional_likelihood_normalized", ["b", "aaaa"], 0, [0.0, 0.0]),
    ],
)
async def test_every_method(method: str, choices: list[str], chosen: int, scored: list[float]) -> None:
    async with served() as server:
        body = {"prompt": "Q: ", "choices": choices, "method": method}
        answer = await server.answer("/v1/decisions", body)
        assert (answer["index"], answer["choice"], answer["method"]) == (chosen, choices[chosen], method)
        assert [choice["score"] for choice in answer["choices"]] == pytest.approx(scored, abs=1e-9)
        totals = [mean(choice) * len(choice) for choice in choices]
        assert [choice["logprob"] for choice in answer["choices"]] == pytest.approx(totals)
        shares = [choice["probability"] for choice in answer["choices"]]
        assert sum(shares) == pytest.approx(1)
        assert shares[0] / shares[1] == pytest.approx(math.exp(totals[0] - totals[1]))
        for choice, told in zip(choices, answer["choices"], strict=True):
            assert bytes(told["tokens"]) == choice.encode()
            assert told["token_logprobs"] == [logprob(byte) for byte in choice.encode()]


async def test_without_the_prompt_a_text_begins_as_texts_of_this_model_do() -> None:
    script = Script()
    async with served(script) as server:
        method = "unconditional_likelihood_normalized"
        await server.answer("/v1/decisions", {"prompt": "Q", "choices": ["a", "b"], "method": method})
        assert [generate.tokens for generate in script.generates[2:]] == [[BOS, 97], [BOS, 98]]


async def test_a_chat_and_token_ids() -> None:
    script = Script()
    async with served(script) as server:
        messages = [{"role": "user", "content": "hi"}]
        answer = await server.answer("/v1/decisions", {"messages": messages, "choices": ["yes", "no"]})
        assert answer["choice"] == "no"
        assert bytes(script.generates[0].tokens) == b"<|user|>hi<|end|>\n<|assistant|>yes"
        ids = await server.answer("/v1/decisions", {"prompt": [65], "choices": [[66, 67], [68]]})
        assert ids["choice"] == [66, 67]
        assert [choice["tokens"] for choice in ids["choices"]] == [[66, 67], [68]]
        assert ids["usage"] == {"prompt_tokens": 5, "total_tokens": 5}


def merging() -> Tokenizer:
    """One token per byte, but for "ab"."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary | {"ab": 256}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, {}, {"default": TEMPLATE})


async def test_where_prompt_and_choice_merge_all_are_compared_from_before() -> None:
    async with served(tokenizer=merging()) as server:
        answer = await server.answer("/v1/decisions", {"prompt": "xa", "choices": ["b", "c"]})
        assert [len(choice["tokens"]) for choice in answer["choices"]] == [1, 2]
        assert answer["choices"][0]["tokens"] == [256]
        response = await server.post("/v1/decisions", {"prompt": "a", "choices": ["b", "c"]})
        assert (response.status_code, response.json()["error"]["param"]) == (400, "prompt")


SCORE = {"query": "a", "items": ["b"], "label_token_ids": [1]}
DECISION = {"prompt": "a", "choices": ["b", "c"]}
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "/v1/score": [
        ({}, "query"),
        ({"query": "a", "items": "b"}, "label_token_ids"),
        ({**SCORE, "items": []}, "items"),
        ({**SCORE, "items": 5}, "items"),
        ({**SCORE, "items": [[1]]}, "items"),
        ({**SCORE, "query": [1]}, "items"),
        ({**SCORE, "items": ["b" * 512]}, "items[0]"),
        ({**SCORE, "items": ["b", "b" * 600]}, "items[1]"),
        ({**SCORE, "query": "", "items": ["b", ""]}, "items[1]"),
        ({**SCORE, "query": [1], "items": [[260]]}, "items[0]"),
        ({**SCORE, "items": ["b"] * 4097}, "items"),
        ({**SCORE, "items": ["b"] * 100, "label_token_ids": [1] * 50}, "items"),
        ({**SCORE, "label_token_ids": []}, "label_token_ids"),
        ({**SCORE, "label_token_ids": [260]}, "label_token_ids"),
        ({**SCORE, "label_token_ids": ["yes"]}, "label_token_ids[0]"),
        ({**SCORE, "apply_softmax": 1}, "apply_softmax"),
        ({**SCORE, "temperature": 1}, "temperature"),
    ],
    "/v1/decisions": [
        ({}, "choices"),
        ({"choices": ["a", "b"]}, "prompt"),
        ({**DECISION, "messages": []}, "prompt"),
        ({"messages": [], "choices": ["a", "b"]}, "messages"),
        ({"messages": [{"role": "user"}], "choices": ["a", "b"]}, "messages[0].content"),
        ({**DECISION, "prompt": ""}, "prompt"),
        ({**DECISION, "prompt": "a" * 513}, "prompt"),
        ({**DECISION, "prompt": [260], "choices": [[1], [2]]}, "prompt"),
        ({**DECISION, "choices": ["a"]}, "choices"),
        ({**DECISION, "choices": ["a", ""]}, "choices[1]"),
        ({**DECISION, "choices": ["a", "b" * 512]}, "choices[1]"),
        ({**DECISION, "choices": ["a", [1]]}, "choices[1]"),
        ({**DECISION, "choices": ["a"] * 1025}, "choices"),
        ({**DECISION, "prompt": [1], "choices": [[1], [260]]}, "choices[1]"),
        ({**DECISION, "method": "best"}, "method"),
        ({**DECISION, "n": 2}, "n"),
    ],
}


@pytest.mark.parametrize("path", BAD)
async def test_refused_by_name_and_the_engine_is_left_alone(path: str) -> None:
    script = Script()
    async with served(script) as server:
        for body, param in BAD[path]:
            response = await server.post(path, body)
            assert response.status_code == 400, (str(body)[:100], response.text)
            error = response.json()["error"]
            assert error["param"] == param and param in error["message"], (str(body)[:100], response.text)
        good = SCORE if path == "/v1/score" else DECISION
        assert (await server.post(path, {**good, "model": "gpt-4"})).status_code == 404
        assert script.received == []


async def test_a_method_that_needs_a_beginning_is_refused_without_one() -> None:
    async with served(skip_tokenizer_init=True) as server:
        body = {"prompt": [65], "choices": [[66], [67]], "method": "unconditional_likelihood_normalized"}
        assert (await server.answer("/v1/decisions", body))["index"] == 0
    async with served(skip_tokenizer_init=True, bos=None) as server:
        response = await server.post("/v1/decisions", body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, "method")
