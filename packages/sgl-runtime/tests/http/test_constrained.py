# SPDX-License-Identifier: Apache-2.0
"""How constraints reach the engine from each endpoint, and what comes back of a text that has jumped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import Script
from served import served

from sgl_runtime.messages import Constraint, Delta, StoppedByConstraint

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": ["x"]}}, "required": ["a"]}
TEXT = '{"type":"object","properties":{"b":{"type":"integer"},"a":{"enum":["x"]}},"required":["a"]}'
STRICT = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_schema", '{"type":"object"}')),
        ({"response_format": STRICT}, Constraint("json_schema", TEXT)),
        ({"json_schema": SCHEMA}, Constraint("json_schema", TEXT)),
        ({"regex": "a+"}, Constraint("regex", "a+")),
        ({"ebnf": 'root ::= "a"'}, Constraint("ebnf", 'root ::= "a"')),
    ],
)
async def test_both_openai_endpoints(fields: dict[str, Any], constraint: Constraint | None) -> None:
    async with served() as server:
        await server.answer("/v1/completions", {"prompt": "a", **fields})
        messages = [{"role": "user", "content": "a"}]
        await server.answer("/v1/chat/completions", {"messages": messages, **fields})
        assert [message.sampling.constraint for message in server.script.generates] == [constraint] * 2


async def test_forced_tokens_in_the_native_answer() -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        task = server.post("/generate", {"text": "a", "sampling_params": {"regex": "abc"}, "stream": True})
        asking = asyncio.ensure_future(task)
        while not script.generates:  # a thread compiles the expression
            await asyncio.sleep(0.001)
        rid = script.generates[0].rid
        script.say(Delta(rid, list(b"ab"), forced=1))
        script.say(Delta(rid, list(b"c"), StoppedByConstraint(), forced=1))
        text = (await asking).text
    assert '"completion_tokens":3,"completion_tokens_wo_jump_forward":1' in text
    assert '"finish_reason":{"type":"stop","matched":null}' in text


@pytest.mark.parametrize("field", ["regex", "json_schema", "ebnf"])
async def test_without_a_tokenizer_it_is_refused_by_name(field: str) -> None:
    body = {"input_ids": [1], "sampling_params": {field: "true"}}
    async with served(skip_tokenizer_init=True) as server:
        response = await server.post("/generate", body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == f"sampling_params.{field}"
    assert "--skip-tokenizer-init" in response.json()["error"]["message"]
