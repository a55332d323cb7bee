# SPDX-License-Identifier: Apache-2.0
"""Bodies nobody would write: each is answered or refused, none is a failure of the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Script, byte_tokenizer, vector_to
from served import ROOMY, TOOL_TEMPLATE, served

from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.http.anthropic.schema import CountBody, MessagesBody, ToolResultBlock
from sgl_runtime.http.encode import EncodeBody
from sgl_runtime.http.native import GenerateBody
from sgl_runtime.http.openai.classify import ClassifyBody
from sgl_runtime.http.openai.decisions import DecisionBody
from sgl_runtime.http.openai.embeddings import EmbeddingsBody
from sgl_runtime.http.openai.responses.schema import Item, ResponsesBody
from sgl_runtime.http.openai.schema import ChatBody, ChatMessage, CompletionBody, Function, ToolCall
from sgl_runtime.http.openai.score import ScoreBody
from sgl_runtime.messages import Answers

TOKENIZER = byte_tokenizer(template=TOOL_TEMPLATE)
STRUCTS: dict[str, Any] = {
    "/generate": GenerateBody,
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/responses": ResponsesBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    "/v1/score": ScoreBody,
    "/v1/decisions": DecisionBody,
    "/encode": EncodeBody,
    "/v1/embeddings": EmbeddingsBody,
    "/v1/classify": ClassifyBody,
}
BASES: dict[str, dict[str, Any]] = {
    "/generate": {"text": "a"},
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/responses": {"input": "a"},
    "/v1/messages": {"model": "default", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}]},
    "/v1/messages/count_tokens": {"model": "default", "messages": [{"role": "user", "content": "a"}]},
    "/v1/score": {"query": "a", "items": ["b"], "label_token_ids": [1]},
    "/v1/decisions": {"prompt": "a", "choices": ["b", "c"]},
    "/encode": {"text": "a"},
    "/v1/embeddings": {"input": "a"},
    "/v1/classify": {"input": "a"},
}
ANSWERS: dict[str, Answers] = {
    "/encode": "embeddings",
    "/v1/embeddings": "embeddings",
    "/v1/classify": "scores",
}
NAMES = sorted(
    {
        name
        for struct in (
            *STRUCTS.values(),
            SamplingBody,
            ChatMessage,
            Function,
            ToolCall,
            Item,
            ToolResultBlock,
        )
        for name in struct.__struct_fields__
    }
    | {"type", "function"}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 600),
    st.integers(),
    st.floats(),  # NaN and infinities too: json.dumps writes them as Python does
    st.text(max_size=6),
    st.characters(categories=["Cs"]),
    st.sampled_from(["user", "text", "default", "a", "function", "required", "f", "assistant", "tool", "{}"]),
    st.sampled_from(["json_schema", "object", "tool_use", "tool_result", "message", "function_call", "auto"]),
)
KEYS = st.sampled_from(NAMES) | st.text(max_size=4) | st.characters(categories=["Cs"]) | st.just("5")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


async def _answered_or_refused(path: str, bodies: list[bytes]) -> None:
    answers = ANSWERS.get(path, "text")
    script = Script(vector=None if answers == "text" else vector_to)
    capacity = msgspec.structs.replace(ROOMY, answers=answers)
    async with served(script, tokenizer=TOKENIZER, capacity=capacity) as server:
        for body in bodies:
            before = len(script.received)
            response = await server.post(path, body)
            assert response.status_code in (200, 400, 404), (body, response.text)
            if response.status_code != 200:
                assert response.json()["error"]["message"]
                assert len(script.received) == before
        assert server.api.client.in_flight == [0]


@pytest.mark.parametrize("path", BASES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_of_all_kinds_in_fields_of_all_names(path: str, data: st.DataObject) -> None:
    fields = st.sampled_from(STRUCTS[path].__struct_fields__) | KEYS
    bodies = data.draw(st.lists(st.dictionaries(fields, VALUES, max_size=3), min_size=1, max_size=5))
    texts = [json.dumps({**BASES[path], **body}) for body in bodies]
    # Some with their half surrogates as bytes that are no UTF-8, the others escaped.
    raw = [json.dumps({**BASES[path], **body}, ensure_ascii=False) for body in bodies]
    encoded = [text.encode() for text in texts] + [text.encode(errors="surrogatepass") for text in raw]
    asyncio.run(_answered_or_refused(path, encoded))


TOOLS: Any = st.lists(
    st.fixed_dictionaries(
        {"type": st.just("function")},
        optional={
            "name": st.sampled_from(["f", "g", ""]),
            "input_schema": VALUES,
            "parameters": VALUES,
            "function": st.fixed_dictionaries({"name": st.just("f")}, optional={"parameters": VALUES}),
            "strict": st.booleans(),
        },
    ),
    max_size=2,
)
CHATS = ["/v1/chat/completions", "/v1/responses", "/v1/messages"]


@pytest.mark.parametrize("path", CHATS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_tools_of_all_kinds(path: str, data: st.DataObject) -> None:
    turns = "input" if path == "/v1/responses" else "messages"
    fields = {
        "tools": TOOLS | VALUES,
        "tool_choice": VALUES,
        turns: st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=3),
    }
    chosen = data.draw(st.fixed_dictionaries({}, optional=fields))
    for tool in chosen["tools"] if isinstance(chosen.get("tools"), list) else ():
        if path == "/v1/messages" and isinstance(tool, dict):
            tool.pop("type", None)
    asyncio.run(_answered_or_refused(path, [json.dumps({**BASES[path], **chosen}).encode()]))


@pytest.mark.parametrize("path", BASES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_broken_bytes(path: str, data: st.DataObject) -> None:
    whole = json.dumps({**BASES[path], "temperature": 0.5, "stop": ["é", "\n"]}, ensure_ascii=False).encode()
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 4))
    body = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + cut :]
    asyncio.run(_answered_or_refused(path, [body, data.draw(st.binary(max_size=20))]))
