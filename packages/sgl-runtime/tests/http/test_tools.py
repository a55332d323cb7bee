# SPDX-License-Identifier: Apache-2.0
"""Tools and reasoning in chat completions: what the model is shown, what its answer becomes, streamed or
not.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import EOS, Script, byte_tokenizer
from served import ROOMY, TOOL_TEMPLATE, served
from sgl_constrain import Compiler, Matcher, Vocabulary

from sgl_runtime.messages import Generate
from sgl_runtime.text.tokenizer import Tokenizer

pytestmark = pytest.mark.anyio
PATH = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich"}}\n</tool_call>'
TOKENIZER = byte_tokenizer(template=TOOL_TEMPLATE)


def says(text: str, per_step: int = 3) -> Script:
    return Script(answer=lambda _: [*text.encode(), EOS], per_step=per_step)


def asks(**fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "a"}],
        "tools": [WEATHER, TIME],
        "temperature": 0,
        **fields,
    }


def tooled(script: Script, **config: Any) -> Any:
    return served(script, tokenizer=TOKENIZER, capacity=ROOMY, **config)


def put_together(events: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The message and finish reason that a client makes of the events of a choice."""
    message: dict[str, Any] = {}
    finish = None
    for event in events:
        for choice in event["choices"]:
            if choice["index"] != index:
                continue
            assert finish is None
            finish = choice["finish_reason"]
            for field, value in choice["delta"].items():
                if field != "tool_calls":
                    message[field] = message.get(field, "") + value
                    continue
                for call in value:
                    calls = message.setdefault("tool_calls", [])
                    if call["index"] == len(calls):
                        calls.append({key: part for key, part in call.items() if key != "index"})
                    else:
                        assert call.keys() == {"index", "function"}
                        calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if message.get("tool_calls") and not message["content"]:
        message["content"] = None
    return {"message": message, "finish_reason": finish}


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    message = dict(choice["message"])
    if "tool_calls" in message:
        ids = [call["id"] for call in message["tool_calls"]]
        assert len(set(ids)) == len(ids)
        message["tool_calls"] = [{**call, "id": None} for call in message["tool_calls"]]
    return {"message": message, "finish_reason": choice["finish_reason"]}


async def test_a_call() -> None:
    script = says(f"Let me see.\n{CALL}")
    async with tooled(script) as server:
        answer = await server.answer(PATH, asks())
    prompt = bytes(script.generates[0].tokens).decode()
    assert prompt == f"<|tools|>{_shown(WEATHER, TIME)}<|end|>\n<|user|>a<|end|>\n<|assistant|>"
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call.pop("id").startswith("call_")
    assert call == {
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'},
    }
    assert choice["message"]["content"] == "Let me see."


async def test_two_calls_in_one_delta_and_no_text() -> None:
    text = CALL + '<tool_call>{"name": "get_time"}</tool_call>'
    async with tooled(says(text, per_step=500)) as server:
        answer = await server.answer(PATH, asks())
        events = await server.events(PATH, asks(stream=True))
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    functions = [call["function"] for call in message["tool_calls"]]
    assert [function["name"] for function in functions] == ["get_weather", "get_time"]
    assert [json.loads(function["arguments"]) for function in functions] == [{"city": "Zürich"}, {}]
    assert without_ids(put_together(events)) == without_ids(answer["choices"][0])


async def test_arguments_are_streamed_as_they_come() -> None:
    async with tooled(says(CALL, per_step=1)) as server:
        events = await server.events(PATH, asks(stream=True))
    deltas = [event["choices"][0]["delta"].get("tool_calls", [{}])[0] for event in events]
    pieces = [delta["function"]["arguments"] for delta in deltas if "function" in delta]
    assert pieces[0] == ""
    assert len(pieces) > 10


TEXTS = st.lists(
    st.sampled_from(
        [CALL, '<tool_call>{"name": "get_time"', "}</tool_call>", "<think>", "</think>", "é\n ", "<tool"]
    )
    | st.text(max_size=3),
    max_size=5,
).map("".join)


@settings(max_examples=40, deadline=None)
@given(
    text=TEXTS, per_step=st.integers(1, 9), n=st.integers(1, 2), thinks=st.booleans(), logprobs=st.booleans()
)
def test_a_stream_put_together_is_the_answer(
    text: str, per_step: int, n: int, thinks: bool, logprobs: bool
) -> None:
    body = asks(n=n, chat_template_kwargs={"thinks": thinks}, logprobs=logprobs)

    async def both() -> tuple[Any, list[Any]]:
        async with tooled(says(text, per_step)) as server:
            options = {"include_usage": True, "continuous_usage_stats": True}
            whole = await server.answer(PATH, body)
            return whole, await server.events(PATH, {**body, "stream": True, "stream_options": options})

    whole, events = asyncio.run(both())
    for choice in whole["choices"]:
        index = choice["index"]
        assert without_ids(put_together(events, index)) == without_ids(choice)
        if logprobs:
            parts = [part for event in events for part in event["choices"] if part["index"] == index]
            entries = [entry for part in parts if part["logprobs"] for entry in part["logprobs"]["content"]]
            assert entries == choice["logprobs"]["content"]
    assert events[-1]["usage"]["completion_tokens_details"] == whole["usage"]["completion_tokens_details"]


async def test_results_go_back_to_the_model() -> None:
    script = says("12 degrees.")
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "X"}'},
    }
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm."},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "12"}]},
    ]
    async with tooled(script) as server:
        answer = await server.answer(PATH, asks(messages=messages))
    assert answer["choices"][0]["finish_reason"] == "stop"
    prompt = bytes(script.generates[0].tokens).decode()
    assert prompt.partition("<|assistant|>")[2] == (
        '<think>Hm.</think><tool_call>{"name": "get_weather", "arguments": {"city": "X"}}</tool_call>'
        "<|end|>\n<|tool|>12<|end|>\n<|assistant|>"
    )


async def test_no_tools_are_shown_where_none_may_be_called() -> None:
    script = says(CALL)
    async with tooled(script) as server:
        answer = await server.answer(PATH, asks(tool_choice="none"))
        plain = await server.answer(PATH, {"messages": asks()["messages"], "temperature": 0})
    assert bytes(script.generates[0].tokens).startswith(b"<|user|>")
    for each in (answer, plain):
        assert each["choices"][0]["message"] == {"role": "assistant", "content": CALL}
        assert each["choices"][0]["finish_reason"] == "stop"


async def test_the_last_message_is_continued() -> None:
    script = says(" more")
    said = {"role": "assistant", "content": "Once"}
    async with tooled(script) as server:
        body = asks(tools=None, continue_final_message=True)
        await server.answer(PATH, {**body, "messages": [*body["messages"], said]})
        refused = await server.post(PATH, body)
    assert bytes(script.generates[0].tokens).endswith(b"<|assistant|>Once")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "continue_final_message")


async def test_a_call_that_is_broken_off() -> None:
    async with tooled(says(CALL)) as server:
        answer = await server.answer(PATH, asks(max_tokens=60))
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "length"
    assert CALL.startswith("<tool_call>\n" + '{"name": "get_weather", "arguments": ')
    assert choice["message"]["tool_calls"][0]["function"]["arguments"].startswith('{"cit')


class TestTemplatesWithoutTools:
    async def test_the_system_message_describes_them(self) -> None:
        script = says(CALL)
        call = {"id": "x", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
        messages = [
            {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "tool_calls": [call, call]},
            {"role": "tool", "tool_call_id": "x", "content": [{"type": "text", "text": "1"}]},
            {"role": "tool", "tool_call_id": "x", "content": "2"},
        ]
        async with served(script, capacity=ROOMY) as server:
            answer = await server.answer(PATH, asks(messages=messages))
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        prompt = bytes(script.generates[0].tokens).decode()
        assert prompt.startswith("<|system|>Be brief.\n\nYou can call functions.")
        assert '{"name": "get_weather", "description": "Weather of a city.", "parameters": ' in prompt
        made = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
        assert prompt.endswith(
            f"<|user|>a<|end|>\n<|assistant|>{made}\n{made}<|end|>\n"
            "<|user|><tool_response>\n1\n</tool_response>\n<tool_response>\n2\n</tool_response><|end|>\n"
            "<|assistant|>"
        )

    @pytest.mark.parametrize("name", ["llama3", "mistral", "mistral-named", "pythonic", "qwen25"])
    async def test_in_the_format_that_is_asked_for(self, name: str) -> None:
        script = says("[get_time()]" if name == "pythonic" else "nothing")
        async with served(script, capacity=ROOMY, tool_call_parser=name) as server:
            answer = await server.answer(PATH, asks())
        mark = {"llama3": '"parameters"', "pythonic": "(argument='value')", "qwen25": "<tool_call>"}
        prompt = bytes(script.generates[0].tokens).decode()
        assert mark.get(name, "[TOOL_CALLS]") in prompt
        assert answer["choices"][0]["finish_reason"] == ("tool_calls" if name == "pythonic" else "stop")

    async def test_none_at_all(self) -> None:
        async with served(tool_call_parser="none") as server:
            response = await server.post(PATH, asks())
            assert response.status_code == 400
            assert "--tool-call-parser" in response.json()["error"]["message"]


async def test_marks_that_are_special_tokens_are_seen_where_calls_are_looked_for() -> None:
    tokenizer = byte_tokenizer()
    tokenizer._backend.add_special_tokens(["[TOOL_CALLS]"])
    tokenizer = Tokenizer(tokenizer._backend, tokenizer.special_tokens, tokenizer.chat_templates)
    mark = tokenizer.token_id("[TOOL_CALLS]")
    assert mark is not None and mark in tokenizer.special
    script = Script(answer=lambda _: [mark, *b'[{"name": "get_time", "arguments": {}}]', EOS])
    flags = {"tokenizer": tokenizer, "capacity": ROOMY, "tool_call_parser": "mistral"}
    async with served(script, **flags) as server:
        called = await server.answer(PATH, asks())
        plain = await server.answer(PATH, asks(tools=None))
    assert called["choices"][0]["finish_reason"] == "tool_calls"
    assert plain["choices"][0]["message"]["content"] == '[{"name": "get_time", "arguments": {}}]'


async def test_arguments_of_any_depth_are_shown_or_refused() -> None:
    """Where each of them fails for its own reason: reading, writing, rendering."""
    async with served(capacity=ROOMY) as plain, tooled(Script()) as server:
        for depth in range(900, 1000):
            function = {"name": "f", "arguments": '{"a":' * depth + "{}" + "}" * depth}
            body = {
                "messages": [{"role": "assistant", "tool_calls": [{"function": function}]}],
                "max_tokens": 1,
            }
            for each in (plain, server):
                assert (await each.post(PATH, body)).status_code in (200, 400)


class TestReasoning:
    async def test_it_is_split_off_and_counted(self) -> None:
        async with tooled(says("Hm, Zürich.\n</think>\n\nYes.")) as server:
            answer = await server.answer(PATH, asks(chat_template_kwargs={"thinks": True}))
        (choice,) = answer["choices"]
        assert choice["message"] == {
            "role": "assistant",
            "content": "Yes.",
            "reasoning_content": "Hm, Zürich.",
        }
        tokens = len("Hm, Zürich.\n</think>".encode())
        assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": tokens}

    async def test_it_stays_where_it_is_not_to_be_separated(self) -> None:
        async with tooled(says("<think>Hm.</think>Yes.")) as server:
            kept = await server.answer(PATH, asks(tools=None, separate_reasoning=False))
            split = await server.answer(PATH, asks(tools=None))
        assert kept["choices"][0]["message"]["content"] == "<think>Hm.</think>Yes."
        assert split["choices"][0]["message"]["content"] == "Yes."

    async def test_effort(self) -> None:
        script = says("Yes.")
        template = (
            TOOL_TEMPLATE + "{{ reasoning_effort }}{% if enable_thinking is false %}</think>{% endif %}"
        )
        tokenizer = byte_tokenizer(template=template)
        async with served(script, tokenizer=tokenizer, capacity=ROOMY) as server:
            await server.answer(PATH, asks(reasoning_effort="high"))
            answer = await server.answer(PATH, asks(reasoning_effort="none"))
        prompts = [bytes(generate.tokens).decode() for generate in script.generates]
        assert prompts[0].endswith("<|assistant|>high")
        assert prompts[1].endswith("<|assistant|></think>")
        assert answer["choices"][0]["message"]["content"] == "Yes."

    async def test_forced_off(self) -> None:
        async with tooled(says("<think>Hm.</think>Yes."), reasoning_parser="none") as server:
            answer = await server.answer(PATH, asks(tools=None))
        assert answer["choices"][0]["message"]["content"] == "<think>Hm.</think>Yes."
        assert "completion_tokens_details" not in answer["usage"]


def _shown(*tools: dict[str, Any]) -> str:
    shown = [
        {"type": "function", "function": {"parameters": {"type": "object"}, **tool["function"]}}
        for tool in tools
    ]
    ordered = [
        {
            "type": "function",
            "function": {
                key: tool["function"][key]
                for key in ("name", "description", "parameters")
                if key in tool["function"]
            },
        }
        for tool in shown
    ]
    return json.dumps(ordered, ensure_ascii=False)


def allows(generate: Generate, text: str) -> bool:
    """The constraint of a request, by sgl-constrain over a vocabulary of bytes."""
    constraint = generate.sampling.constraint
    assert constraint is not None and constraint.kind == "ebnf"
    vocabulary = Vocabulary([bytes([byte]) for byte in range(256)] + [b""], eos=[256])
    matcher = Matcher(Compiler(vocabulary).lark(constraint.text))
    return all(matcher.accept_token(byte) for byte in text.encode()) and matcher.accept_token(256)


TWO = f'{CALL}\n<tool_call>\n{{"name": "get_time", "arguments": {{}}}}\n</tool_call>'
BAD_CALL = CALL.replace('"city"', '"town"')
STRICT = {"type": "function", "function": {**WEATHER["function"], "strict": True}}


class TestConstraints:
    @pytest.mark.parametrize(
        ("fields", "allowed", "refused"),
        [
            ({"tool_choice": "required"}, [CALL, TWO], ["", "Hi", BAD_CALL]),
            ({"tool_choice": "required", "parallel_tool_calls": False}, [CALL], ["", TWO]),
            (
                {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
                [CALL],
                ["Hi", TWO, BAD_CALL],
            ),
            (
                {
                    "tool_choice": {
                        "type": "allowed_tools",
                        "allowed_tools": {
                            "mode": "required",
                            "tools": [{"type": "function", "function": {"name": "get_weather"}}],
                        },
                    }
                },
                [CALL],
                ["Hi", TWO, BAD_CALL],
            ),
            ({"tools": [STRICT, TIME]}, ["", "Hi {", CALL, TWO, f"Well.\n{CALL}"], [BAD_CALL]),
            ({"parallel_tool_calls": False}, ["", "Hi", CALL], [TWO]),
        ],
    )
    async def test_what_may_be_answered(
        self, fields: dict[str, Any], allowed: list[str], refused: list[str]
    ) -> None:
        script = says(CALL)
        async with tooled(script, reasoning_parser="none") as server:
            answer = await server.answer(PATH, asks(**fields))
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        for text in allowed:
            assert allows(script.generates[0], text), text
        for text in refused:
            assert not allows(script.generates[0], text), text

    async def test_any_text_where_nothing_is_strict(self) -> None:
        script = says(CALL)
        async with tooled(script) as server:
            await server.answer(PATH, asks())
        assert script.generates[0].sampling.constraint is None

    async def test_reasoning_comes_first(self) -> None:
        script = says("Hm.</think>{}")
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
        async with tooled(script) as server:
            for thinks in (False, True):
                variables = {"thinks": thinks}
                await server.answer(PATH, asks(tool_choice="required", chat_template_kwargs=variables))
                body = asks(tools=None, response_format=format, chat_template_kwargs=variables)
                await server.answer(PATH, body)
                await server.answer(PATH, asks(tools=None, regex="a+", chat_template_kwargs=variables))
        possible, possible_json, possible_a, opened, opened_json, opened_a = script.generates
        assert allows(possible, CALL) and allows(possible, f"<think>Hm.</think>\n\n{CALL}")
        assert not allows(opened, CALL) and allows(opened, f"Hm.</think>\n\n{CALL}")
        assert allows(possible_json, "5") and allows(possible_json, "<think>Hm.</think>5")
        assert not allows(opened_json, "5") and allows(opened_json, "Hm.</think>5")
        assert not allows(opened_json, "Hm.</think>x")
        assert allows(possible_a, "aa") and allows(opened_a, "Hm.</think>aa")

    async def test_what_no_grammar_can_write_is_written_by_the_prompt(self) -> None:
        script = says('[{"name": "get_time", "arguments": {}}]', per_step=1)
        async with served(script, capacity=ROOMY, tool_call_parser="mistral") as server:
            answer = await server.answer(PATH, asks(tool_choice="required"))
            events = await server.events(PATH, asks(tool_choice="required", stream=True))
        assert bytes(script.generates[0].tokens).endswith(b"<|assistant|>[TOOL_CALLS]")
        assert allows(script.generates[0], '[{"name": "get_time", "arguments": {}}]')
        message = answer["choices"][0]["message"]
        assert message["content"] is None
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_time"]
        assert without_ids(put_together(events)) == without_ids(answer["choices"][0])

    async def test_a_schema_that_cannot_be_enforced_is_any_object_unless_strict(self) -> None:
        script = says("a")
        odd = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a)\\1"}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": odd}}
        async with tooled(script) as server:
            await server.answer(PATH, asks(tool_choice="required", tools=[tool]))
        assert '"pattern"' in bytes(script.generates[0].tokens).decode()
        call = '<tool_call>\n{"name": "f", "arguments": {"a": 5}}\n</tool_call>'
        assert allows(script.generates[0], call)
        assert not allows(script.generates[0], call.replace('{"a": 5}', "5"))

    async def test_what_cannot_be_is_refused_by_name(self) -> None:
        script = says("a")
        bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(a)\\1"}}}
        tool = {"type": "function", "function": {"name": "f", "parameters": bad, "strict": True}}
        format = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}
        async with tooled(script) as server:
            for fields, param in (
                ({"tools": [tool], "tool_choice": "required"}, "tools"),
                (
                    {"tool_choice": "required", "response_format": format},
                    "response_format.json_schema.schema",
                ),
                ({"tool_choice": "required", "regex": "a"}, "regex"),
                ({"tools": None, "ebnf": "start: /a/", "chat_template_kwargs": {"thinks": True}}, "ebnf"),
            ):
                response = await server.post(PATH, asks(**fields))
                assert (response.status_code, response.json()["error"]["param"]) == (400, param), (
                    response.text
                )
        assert script.received == []
