# SPDX-License-Identifier: Apache-2.0
"""Bodies nobody would write: each is answered or refused, none is a failure of the server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Script, byte_tokenizer
from served import served

from sgl_runtime.engine.sampling import SamplingBody
from sgl_runtime.http.native import GenerateBody
from sgl_runtime.http.openai.schema import ChatBody, ChatMessage, CompletionBody

TOKENIZER = byte_tokenizer()
STRUCTS = {"/generate": GenerateBody, "/v1/completions": CompletionBody, "/v1/chat/completions": ChatBody}
BASES: dict[str, dict[str, Any]] = {
    "/generate": {"text": "a"},
    "/v1/completions": {"prompt": "a"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
}
NAMES = sorted(
    {name for struct in (*STRUCTS.values(), SamplingBody, ChatMessage) for name in struct.__struct_fields__}
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 600),
    st.integers(),
    st.floats(),  # NaN and infinities too: json.dumps writes them as Python does
    st.text(max_size=6),
    st.characters(categories=["Cs"]),
    st.sampled_from(["user", "text", "default", "a"]),
)
KEYS = st.sampled_from(NAMES) | st.text(max_size=4) | st.characters(categories=["Cs"]) | st.just("5")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


async def _answered_or_refused(path: str, bodies: list[bytes]) -> None:
    script = Script()
    async with served(script, tokenizer=TOKENIZER) as server:
        for body in bodies:
            before = len(script.received)
            response = await server.post(path, body)
            assert response.status_code in (200, 400), (body, response.text)
            if response.status_code == 400:
                assert response.json()["error"]["message"]
                assert len(script.received) == before
        assert server.api.client.in_flight == [0]


@pytest.mark.parametrize("path", BASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_values_of_all_kinds_in_fields_of_all_names(path: str, data: st.DataObject) -> None:
    fields = st.sampled_from(STRUCTS[path].__struct_fields__) | KEYS
    bodies = data.draw(st.lists(st.dictionaries(fields, VALUES, max_size=3), min_size=1, max_size=5))
    texts = [json.dumps({**BASES[path], **body}) for body in bodies]
    # Some with their half surrogates as bytes that are no UTF-8, the others escaped.
    raw = [json.dumps({**BASES[path], **body}, ensure_ascii=False) for body in bodies]
    encoded = [text.encode() for text in texts] + [text.encode(errors="surrogatepass") for text in raw]
    asyncio.run(_answered_or_refused(path, encoded))


@pytest.mark.parametrize("path", BASES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_broken_bytes(path: str, data: st.DataObject) -> None:
    whole = json.dumps({**BASES[path], "temperature": 0.5, "stop": ["é", "\n"]}, ensure_ascii=False).encode()
    at = data.draw(st.integers(0, len(whole)))
    cut = data.draw(st.integers(0, 4))
    body = whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + cut :]
    asyncio.run(_answered_or_refused(path, [body, data.draw(st.binary(max_size=20))]))
