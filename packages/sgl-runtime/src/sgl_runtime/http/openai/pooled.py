# SPDX-License-Identifier: Apache-2.0
"""OpenAI's forms of prompts -> a request for their vectors."""

from __future__ import annotations

from sgl_runtime.engine.prefill import Pool, pooling
from sgl_runtime.engine.prepare import Given
from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.openai.prompts import Prompts, prompts_of


async def prepare(api: Api, given: Prompts, id: str) -> PreparedRequest:
    """The prompts of the field `input`. Raises InvalidRequest naming it."""
    prompts = prompts_of(given, "input")
    many = len(prompts) > 1
    givens = [
        Given(prompt=prompt, source=f"input[{i}]" if many else "input") for i, prompt in enumerate(prompts)
    ]
    tokens = await api.preparation.tokens(givens)
    return pooling(
        [
            Pool(ids, prompt if isinstance(prompt, str) else None, f"{id}-{i}" if many else id, id)
            for i, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True))
        ],
        home=api.client.peers.home,
    )
