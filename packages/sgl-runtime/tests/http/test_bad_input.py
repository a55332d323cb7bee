# SPDX-License-Identifier: Apache-2.0
"""Every bad body is a 4xx that names the field, and the engine never hears of it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from openai.types import completion_create_params as completion
from openai.types.chat import completion_create_params as chat_completion
from openai.types.responses import response_create_params
from scripted import Script, byte_tokenizer
from served import Served, served

from sgl_runtime.http.anthropic.schema import CountBody, MessagesBody
from sgl_runtime.http.openai.completions import DEFAULT_MAX_TOKENS
from sgl_runtime.http.openai.responses.schema import ResponsesBody
from sgl_runtime.http.openai.schema import ChatBody, CompletionBody

pytestmark = pytest.mark.anyio


def native(**sampling: Any) -> dict[str, Any]:
    return {"text": "a", "sampling_params": sampling}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}], **fields}


def said(*messages: Any) -> dict[str, Any]:
    return {"messages": list(messages)}


def tools(*names: str, **function: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, **function}} for name in names]


NOT_JSON: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"not json", None),
    (b"{", None),
    (b"[]", None),
    (b'"text"', None),
    (b"null", None),
    (b'{"text": "a"} x', None),
    (b"\xff\xfe", None),
    (b'\xef\xbb\xbf{"text": "a"}', None),
    (b'{"text": "caf\xe9"}', "text"),
    (b'{"text": ["ok", "caf\xe9"]}', "text[1]"),
    (b'{"text": "\\ud83d"}', "text"),
    (b'{"text": "a", "sampling_params": {"stop": ["\\udc00"]}}', "sampling_params.stop[0]"),
    (b'{"text": "a", "sampling_params": {"temperature": NaN}}', "sampling_params.temperature"),
    (b'{"text": "a", "sampling_params": {"top_p": Infinity}}', "sampling_params.top_p"),
    (b'{"text": "a", "sampling_params": {"temperature": -Infinity}}', "sampling_params.temperature"),
    (b'{"text": "a", "sampling_params": {"temperature": 1e999}}', "sampling_params.temperature"),
    (b'{"text": "a", "image_data": ' + b"[" * 5000 + b"]" * 5000 + b"}", None),
]

NATIVE: list[tuple[Any, str | None]] = [
    ({}, "text"),
    ({"text": "a", "input_ids": [1]}, "text"),
    ({"text": ""}, "text"),
    ({"text": []}, "text"),
    ({"text": ["a", ""]}, "text[1]"),
    ({"text": 5}, "text"),
    ({"text": [1]}, "text[0]"),
    ({"text": "a" * 513}, "text"),
    ({"text": ["a"] * 4097}, "text"),
    ({"input_ids": []}, "input_ids"),
    ({"input_ids": [[]]}, "input_ids[0]"),
    ({"input_ids": [1, [2]]}, "input_ids"),
    ({"input_ids": [[1]] * 4097}, "input_ids"),
    ({"input_ids": [260]}, "input_ids"),
    ({"input_ids": [-1]}, "input_ids"),
    ({"input_ids": [1 << 70]}, "input_ids"),
    ({"input_ids": [1.5]}, "input_ids[0]"),
    ({"input_ids": [True]}, "input_ids[0]"),
    ({"input_ids": ["a"]}, "input_ids[0]"),
    ({"input_ids": [[1, "a"]]}, "input_ids[0][1]"),
    ({"input_ids": [1] * 513}, "input_ids"),
    ({"text": "a", "unknown": 1}, "unknown"),
    ({"text": "a", "image_data": "x.png"}, "image_data"),
    ({"text": "a", "stream": "yes"}, "stream"),
    ({"text": "a", "sampling_params": 5}, "sampling_params"),
    ({"text": "a", "sampling_params": []}, "sampling_params"),
    ({"text": "a", "sampling_params": [{}]}, "sampling_params"),
    ({"text": ["a", "b"], "sampling_params": [{}]}, "sampling_params"),
    ({"text": ["a", "b"], "sampling_params": [{}, {"top_k": 0}]}, "sampling_params[1].top_k"),
    ({"text": ["a", "b"], "sampling_params": [{}, {"top_p": 2}]}, "sampling_params[1].top_p"),
    ({"text": "a", "rid": ""}, "rid"),
    ({"text": "a", "rid": "x" * 257}, "rid"),
    ({"text": "a", "rid": ["x"]}, "rid"),
    ({"text": ["a", "b"], "rid": ["x"]}, "rid"),
    ({"text": ["a", "b"], "rid": ["x", "x"]}, "rid"),
    ({"text": "a", "return_logprob": 1}, "return_logprob"),
    ({"text": "a", "return_logprob": [True]}, "return_logprob"),
    ({"text": "a", "return_logprob": True, "logprob_start_len": 2}, "logprob_start_len"),
    ({"text": "a", "return_logprob": True, "logprob_start_len": -2}, "logprob_start_len"),
    ({"text": "a", "return_logprob": True, "top_logprobs_num": 257}, "top_logprobs_num"),
    ({"text": "a", "return_logprob": True, "top_logprobs_num": -1}, "top_logprobs_num"),
    *(
        (native(**{field: value}), f"sampling_params.{field}")
        for field, values in {
            "max_new_tokens": (-1, 512, 1 << 70, "5", 1.5, True),
            "min_new_tokens": (-1, 129),
            "temperature": (-0.1, "0", True, [1]),
            "top_p": (0, 1.1, -1),
            "top_k": (0, -2, 1.5),
            "min_p": (-0.1, 1.1),
            "frequency_penalty": (-2.1, 2.1),
            "presence_penalty": (-2.1, 2.1),
            "repetition_penalty": (0, -1, 2.1),
            "seed": (1 << 63, -(1 << 63) - 1, 0.5),
            "n": (0, -1, 1025, "2"),
            "stop": ("", 5, "x" * 4097, ["a"] * 65),
            "stop_token_ids": ([260], 5),
            "logit_bias": ({"260": 1}, {"-1": 1}, {"a": 1}, [1]),
            "ignore_eos": (1, "true"),
            "skip_special_tokens": ("no",),
            "regex": ("a(", r"\bword\b", 5),
            "json_schema": ("{", {"type": 5}, {"uniqueItems": True}, 5, [{}], "nothing"),
            "ebnf": ("root ::= 'a", "root ::= other", {}),
            "stop_regex": ("a",),
            "typo": (1,),
        }.items()
        for value in values
    ),
    (native(stop=["a", ""]), "sampling_params.stop[1]"),
    (native(stop=["a", 5]), "sampling_params.stop[1]"),
    (native(stop_token_ids=[-1]), "sampling_params.stop_token_ids[0]"),
    (native(logit_bias={"5": 101}), "sampling_params.logit_bias[...]"),
]

COMMON: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"n": 0}, "n"),
    ({"max_tokens": 513}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"min_tokens": 600}, "min_tokens"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usages": True}}, "stream_options.include_usages"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation"),
    ({"stream": True, "stream_options": {"include_obfuscation": 0}}, "stream_options.include_obfuscation"),
    ({"logit_bias": {"300": 5}}, "logit_bias"),
    ({"stop": ["a", ""]}, "stop[1]"),
    ({"seed": "x"}, "seed"),
    ({"user": 5}, "user"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    ({"regex": "a("}, "regex"),
    ({"json_schema": {"$ref": "#/$defs/none"}}, "json_schema"),
    ({"response_format": "json_object"}, "response_format"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_object", "schema": {}}}, "response_format.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "json_object"}, "json_schema": {}}, "response_format"),
    ({"response_format": {"type": "json_object"}, "regex": "a"}, "response_format"),
    ({"max_new_tokens": 5}, "max_new_tokens"),
    ({"typo": 1}, "typo"),
]

COMPLETIONS: list[tuple[Any, str | None]] = [
    *(({"prompt": "a", **fields}, param) for fields, param in COMMON),
    ({}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": ""}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a", ""]}, "prompt[1]"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": ["a", 5]}, "prompt"),
    ({"prompt": [5, [5]]}, "prompt"),
    ({"prompt": [260]}, "prompt"),
    ({"prompt": [[1], [260]]}, "prompt[1]"),
    ({"prompt": {"text": "a"}}, "prompt"),
    ({"prompt": ["a"] * 4097}, "prompt"),
    ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ({"prompt": "a", "logprobs": -1}, "logprobs"),
    ({"prompt": "a", "logprobs": True}, "logprobs"),
    ({"prompt": "a", "echo": "yes"}, "echo"),
    ({"prompt": "a", "best_of": 0}, "best_of"),
    ({"prompt": "a", "best_of": 2, "stream": True}, "best_of"),
    ({"prompt": ["a"] * 5, "best_of": 1024}, "best_of"),
    ({"prompt": "a", "n": 2, "best_of": 1}, "best_of"),
    ({"prompt": "a", "suffix": "x"}, "suffix"),
]

CHAT: list[tuple[Any, str | None]] = [
    *((chat(**fields), param) for fields, param in COMMON),
    ({}, "messages"),
    (said(), "messages"),
    (said("a"), "messages[0]"),
    (said({"content": "a"}), "messages[0].role"),
    (said({"role": "robot", "content": "a"}), "messages[0].role"),
    (said({"role": "user"}), "messages[0].content"),
    (said({"role": "user", "content": 5}), "messages[0].content"),
    (said({"role": "user", "content": "a", "typo": 1}), "messages[0].typo"),
    (said({"role": "tool", "content": "a"}), "messages[0].tool_call_id"),
    (said({"role": "user", "content": "a", "tool_call_id": "x"}), "messages[0].tool_call_id"),
    (said({"role": "user", "content": "a", "reasoning_content": "x"}), "messages[0].reasoning_content"),
    (said({"role": "function", "content": "a", "name": "f"}), "messages[0].role"),
    (said({"role": "assistant", "content": "a", "tool_calls": [{}]}), "messages[0].tool_calls[0].function"),
    (
        said({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        said({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a": '}}]}),
        "messages[0].tool_calls[0].function.arguments",
    ),
    (
        said({"role": "user", "content": "a", "tool_calls": [{"function": {"name": "f"}}]}),
        "messages[0].tool_calls",
    ),
    (
        said({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}),
        "messages[0].content[0]",
    ),
    (
        said({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text"}]}),
        "messages[0].content[1]",
    ),
    (said({"role": "user", "content": "a" * 500}), "messages"),
    (chat(max_tokens=0), "max_tokens"),
    (chat(max_completion_tokens=0), "max_completion_tokens"),
    (chat(max_completion_tokens=513), "max_completion_tokens"),
    (chat(max_tokens=5, max_completion_tokens=6), "max_tokens"),
    (chat(logprobs=5), "logprobs"),
    (chat(top_logprobs=5), "top_logprobs"),
    (chat(logprobs=True, top_logprobs=21), "top_logprobs"),
    (chat(tools=[{"type": "function"}]), "tools[0].function"),
    (chat(tools=[{"type": "custom", "custom": {"name": "f"}}]), "tools[0].type"),
    (chat(tools=tools("f", "f")), "tools"),
    (chat(tools=tools("")), "tools"),
    (chat(tools=tools("a b")), "tools"),
    (chat(tools=tools("f", parameters={"type": "string"})), "tools"),
    (chat(tools=tools("f"), tool_choice="any"), "tool_choice"),
    (chat(tools=tools("f"), tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice"),
    (chat(tools=tools("f"), tool_choice={"type": "custom", "custom": {"name": "f"}}), "tool_choice.type"),
    (
        chat(
            tools=tools("f"),
            tool_choice={
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "g"}}],
                },
            },
        ),
        "tool_choice",
    ),
    (chat(tool_choice="required"), "tool_choice"),
    (chat(chat_template_kwargs={"messages": []}), "chat_template_kwargs"),
    (chat(functions=[{}]), "functions"),
    (chat(function_call={"name": "x"}), "function_call"),
    (chat(audio={"voice": "x"}), "audio"),
    (chat(modalities=["text", "audio"]), "modalities"),
    (chat(prediction={}), "prediction"),
    (chat(reasoning_effort="high"), "reasoning_effort"),
    (chat(verbosity="low"), "verbosity"),
    (chat(web_search_options={}), "web_search_options"),
    (chat(service_tier="flex"), "service_tier"),
    (chat(moderation={}), "moderation"),
    (chat(prompt_cache_retention="24h"), "prompt_cache_retention"),
    (chat(prompt_cache_options={}), "prompt_cache_options"),
    (chat(parallel_tool_calls=1), "parallel_tool_calls"),
    (chat(echo=True), "echo"),
]

ABORT: list[tuple[Any, str | None]] = [
    ({}, "rid"),
    ({"rid": "x", "abort_all": True}, "rid"),
    ({"rid": 5}, "rid"),
    ({"all": True}, "all"),
]


async def refuse(server: Served, path: str, bodies: list[tuple[Any, str | None]]) -> None:
    for body, param in bodies:
        response = await server.post(path, body)
        shown = (str(body)[:200], response.text)
        assert response.status_code == 400, shown
        error = response.json()["error"]
        assert error["param"] == param, shown
        assert param is None or (param in error["message"] or param.split(".")[-1] in error["message"]), shown
        fields = {"message", "type", "param", "code"} if path.startswith("/v1/") else {"message", "param"}
        assert set(error) == fields, shown


@pytest.mark.parametrize(
    ("path", "bodies"),
    [
        ("/generate", NOT_JSON),
        ("/generate", NATIVE),
        ("/v1/completions", COMPLETIONS),
        ("/v1/chat/completions", CHAT),
        ("/abort_request", ABORT),
    ],
    ids=["not JSON", "generate", "completions", "chat", "abort"],
)
async def test_refused_by_name_and_the_engine_is_left_alone(
    path: str, bodies: list[tuple[Any, str | None]]
) -> None:
    script = Script()
    async with served(script) as server:
        await refuse(server, path, bodies)
        assert script.received == []
        assert server.api.client.in_flight == [0]


async def test_streams_are_refused_with_a_status_as_well() -> None:
    async with served() as server:
        for body in (native(top_k=0), native(max_new_tokens=512)):
            assert (await server.post("/generate", {**body, "stream": True})).status_code == 400
        assert (await server.post("/v1/completions", {"prompt": [260], "stream": True})).status_code == 400


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
async def test_not_json_is_refused_everywhere(path: str) -> None:
    script = Script()
    async with served(script) as server:
        await refuse(server, path, [(data, None) for data, param in NOT_JSON if b"text" not in data])
        assert script.received == []


NEUTRAL: dict[str, list[dict[str, Any]]] = {
    "/generate": [
        native(**dict.fromkeys(("regex", "stop", "temperature", "seed", "n", "logit_bias"))),
        {"text": "a", "image_data": None},
    ],
    "/v1/completions": [
        {"prompt": "a", **fields}
        for fields in (
            {"best_of": 1},
            {"best_of": 1, "stream": True},
            {"best_of": 2, "n": 2},
            {"suffix": None},
            {"suffix": ""},
            {"response_format": {"type": "text"}},
            {"user": "me", "store": True},
            {"stream_options": None},
            {"logprobs": 20},
        )
    ],
    "/v1/chat/completions": [
        chat(**fields)
        for fields in (
            {"tools": None, "tool_choice": None},
            {"tools": [], "tool_choice": "none"},
            {"tool_choice": "auto", "parallel_tool_calls": True},
            {"response_format": {"type": "text"}, "modalities": ["text"], "service_tier": "auto"},
            {
                "user": "me",
                "metadata": {"a": "b"},
                "store": False,
                "safety_identifier": "x",
                "prompt_cache_key": "y",
            },
            {"max_tokens": 5, "max_completion_tokens": 5},
            {"reasoning_effort": "none", "verbosity": "medium", "audio": None},
        )
    ]
    + [said({"role": "assistant", "content": "a", "tool_calls": None, "refusal": None, "annotations": []})],
}


@pytest.mark.parametrize("path", NEUTRAL)
async def test_neutral_values_and_annotations_are_accepted(path: str) -> None:
    async with served() as server:
        for body in NEUTRAL[path]:
            response = await server.post(path, body)
            assert response.status_code == 200, (body, response.text)


async def test_every_parameter_of_the_official_client_has_a_field() -> None:
    for body, params in (
        (ChatBody, chat_completion.CompletionCreateParamsBase),
        (CompletionBody, completion.CompletionCreateParamsBase),
        (ResponsesBody, response_create_params.ResponseCreateParamsBase),
        (MessagesBody, message_create_params.MessageCreateParamsBase),
        (CountBody, message_count_tokens_params.MessageCountTokensParams),
    ):
        theirs = set(params.__annotations__) | ({"stream"} if body is not CountBody else set())
        assert theirs <= set(body.__struct_fields__)


async def test_a_body_beyond_the_limit_is_413() -> None:
    script = Script()
    async with served(script, max_body_size=1000) as server:
        for path in ("/generate", "/v1/completions"):
            response = await server.post(path, msgspec.json.encode({"text": "x" * 1000}))
            assert response.status_code == 413
            assert "more than 1000" in response.json()["error"]["message"]
        assert (await server.post("/generate", b'{"text": "a"}' + b" " * 987)).status_code == 200


async def test_a_rid_in_flight_is_taken() -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        first = asyncio.create_task(server.post("/generate", {"text": "a", "rid": "mine"}))
        while not script.generates:
            await asyncio.sleep(0)
        second = await server.post("/generate", {"text": "b", "rid": "mine"})
        assert (second.status_code, second.json()["error"]["param"]) == (400, "rid")
        assert len(script.generates) == 1
        await server.answer("/abort_request", {"rid": "mine"})
        await first


async def test_chat_without_a_template_names_the_remedy() -> None:
    async with served(tokenizer=byte_tokenizer(template=None)) as server:
        response = await server.post("/v1/chat/completions", chat())
        assert (response.status_code, "--chat-template" in response.text) == (400, True)


async def test_what_the_template_refuses_is_the_requests_mistake() -> None:
    template = (
        "{{ raise_exception('roles must alternate') if messages|length > 1 else messages[0]['content'] }}"
    )
    async with served(tokenizer=byte_tokenizer(template=template)) as server:
        assert (await server.post("/v1/chat/completions", chat())).status_code == 200
        response = await server.post("/v1/chat/completions", said(*chat()["messages"] * 2))
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "messages"
        assert "roles must alternate" in response.json()["error"]["message"]


async def test_another_model_is_404_with_the_right_name() -> None:
    async with served(served_model_name="tiny", model_path="hub/tiny") as server:
        for path, body in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", chat())):
            for name in ("default", "tiny", "hub/tiny"):
                assert (await server.post(path, {**body, "model": name})).status_code == 200
            response = await server.post(path, {**body, "model": "gpt-4"})
            assert (response.status_code, "'tiny'" in response.text) == (404, True)
            assert response.json()["error"]["code"] == "model_not_found"


async def test_lengths_are_refused_when_given_and_cut_when_not() -> None:
    script = Script()
    async with served(script) as server:
        for fields, length in (
            ({}, DEFAULT_MAX_TOKENS),
            ({"max_tokens": None}, 512 - 1),
            ({"max_tokens": 0}, 0),
        ):
            await server.answer("/v1/completions", {"prompt": "a", **fields})
            assert script.generates[-1].sampling.max_new_tokens == length
        await server.answer("/v1/completions", {"prompt": "a" * 510})
        assert script.generates[-1].sampling.max_new_tokens == 2
        await server.answer("/v1/chat/completions", chat())
        assert script.generates[-1].sampling.max_new_tokens == 512 - len(script.generates[-1].tokens)
