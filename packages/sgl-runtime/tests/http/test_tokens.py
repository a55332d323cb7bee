# SPDX-License-Identifier: Apache-2.0
"""The tokenizer over HTTP, against the tokenizer itself."""

from __future__ import annotations

from typing import Any

import pytest
from served import served

pytestmark = pytest.mark.anyio

TEXTS = ["", "a", "Hello, Wörld!", "<bos>hi<eos>", "汉字 🙂 " * 3000]


async def test_tokens_are_those_of_the_tokenizer() -> None:
    async with served() as server:
        tokenizer = server.api.tokenizer
        assert tokenizer is not None
        expected = [tokenizer.encode(text) for text in TEXTS]
        many = await server.answer("/tokenize", {"prompt": TEXTS})
        assert many == {"tokens": expected, "count": [len(ids) for ids in expected], "max_model_len": 512}
        one = await server.answer("/tokenize", {"prompt": "Hello", "add_special_tokens": False})
        assert one["tokens"] == tokenizer.encode("Hello", add_special=False)
        assert one["count"] == len(one["tokens"])


async def test_tokens_become_their_text_again() -> None:
    async with served() as server:
        tokens = (await server.answer("/tokenize", {"prompt": TEXTS}))["tokens"]
        kept = await server.answer("/detokenize", {"tokens": tokens, "skip_special_tokens": False})
        assert kept == {"text": TEXTS}
        bare = await server.answer("/detokenize", {"tokens": tokens[3]})
        assert bare == {"text": "hi"}
        assert await server.answer("/detokenize", {"tokens": []}) == {"text": ""}


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": ["a", 1]}, "prompt"),
        ("/tokenize", {"prompt": "a", "text": "a"}, "text"),
        ("/tokenize", {"prompt": ["a"] * 5000}, "5000"),
        ("/detokenize", {"tokens": [1, [2]]}, "mixed"),
        ("/detokenize", {"tokens": [[1, 99999]]}, "99999"),
        ("/detokenize", {"tokens": [-1]}, "-1"),
    ],
)
async def test_what_makes_no_sense_is_refused(path: str, body: Any, words: str) -> None:
    async with served() as server:
        response = await server.http.post(path, json=body)
        assert response.status_code == 400
        assert words in response.json()["error"]["message"]


async def test_another_model_is_not_here() -> None:
    async with served() as server:
        response = await server.post("/tokenize", {"prompt": "a", "model": "other"})
        assert (response.status_code, response.json()["error"]["message"][:6]) == (404, "model:")


async def test_without_a_tokenizer_there_is_none_over_http() -> None:
    async with served(skip_tokenizer_init=True) as server:
        for path, body in (("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})):
            response = await server.post(path, body)
            assert response.status_code == 400
            assert "skip-tokenizer-init" in response.json()["error"]["message"]
