# SPDX-License-Identifier: Apache-2.0
"""Chat completions' messages and tools -> the dialogue that all protocols share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Dialogue, Tool, effort
from sgl_runtime.http.openai.schema import (
    AllowedChoice,
    ChatBody,
    ChatMessage,
    ContentPart,
    NamedTool,
    ToolCall,
)
from sgl_runtime.http.unsupported import refuse_unsupported


def dialogue_of(api: Api, body: ChatBody) -> Dialogue:
    """Raises InvalidRequest for what is not text, is no turn of a chat, or is no tool of ours."""
    turns = turns_of(body.messages)
    if body.continue_final_message and body.messages[-1].role != "assistant":
        raise InvalidRequest(
            "continue_final_message: the last message must be the assistant's", param="continue_final_message"
        )
    choice, allowed = "auto", None
    match body.tool_choice:
        case str() as choice:
            pass
        case NamedTool(function=function):
            choice, allowed = "required", frozenset({function.name})
        case AllowedChoice(allowed_tools=given):
            choice, allowed = given.mode, frozenset(tool.function.name for tool in given.tools)
    return Dialogue(
        messages=turns,
        tools=[
            Tool(
                name=tool.function.name,
                description=tool.function.description,
                parameters=tool.function.parameters,
                strict=bool(tool.function.strict),
            )
            for tool in body.tools or ()
        ],
        choice=choice,  # type: ignore[arg-type]  # one of the literals of the body
        allowed=allowed,
        parallel=body.parallel_tool_calls is not False,
        continues=bool(body.continue_final_message),
        reasoning=body.separate_reasoning is not False,
        variables={**effort(api, body.reasoning_effort), **(body.chat_template_kwargs or {})},
    )


def turns_of(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """As templates expect them. Raises InvalidRequest for what is not text or no turn of a chat."""
    if not messages:
        raise InvalidRequest("messages: the list is empty", param="messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: ChatMessage, where: str) -> dict[str, Any]:
    if message.role == "function":
        raise InvalidRequest(
            f"{where}.role: 'function' has been replaced by 'tool', with the tool_call_id of the call",
            param=f"{where}.role",
        )
    refuse_unsupported(message, f"{where}.")
    if message.content is None and not message.tool_calls:
        raise InvalidRequest(f"{where}.content: text is expected", param=f"{where}.content")
    # "developer" is OpenAI's newer word for "system"; templates know the older one.
    turn: dict[str, Any] = {
        "role": "system" if message.role == "developer" else message.role,
        "content": "" if message.content is None else _content(message.content, where),
    }
    for field, role in (
        ("tool_calls", "assistant"),
        ("reasoning_content", "assistant"),
        ("tool_call_id", "tool"),
    ):
        if getattr(message, field) and message.role != role:
            raise InvalidRequest(
                f"{where}.{field}: only in a message of role {role}", param=f"{where}.{field}"
            )
    if message.role == "tool":
        if message.tool_call_id is None:
            raise InvalidRequest(
                f"{where}.tool_call_id: the id of the call that this answers", param=f"{where}.tool_call_id"
            )
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [
            _call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)
        ]
    for field in ("name", "reasoning_content"):
        if getattr(message, field) is not None:
            turn[field] = getattr(message, field)
    return turn


def _call(call: ToolCall, where: str) -> dict[str, Any]:
    function = {
        "name": call.function.name,
        "arguments": arguments_of(call.function.arguments, f"{where}.function"),
    }
    return {"id": call.id, "type": "function", "function": function}


def arguments_of(text: str, where: str) -> dict[str, Any]:
    """Templates take objects. Raises InvalidRequest for anything else."""
    try:
        arguments = json.loads(text or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise InvalidRequest(
            f"{where}.arguments: a JSON object is expected; leave out calls that were broken off",
            param=f"{where}.arguments",
        )
    return arguments


def _content(content: str | list[ContentPart], where: str) -> str | list[dict[str, str]]:
    if isinstance(content, str):
        return content
    parts = []
    for i, part in enumerate(content):
        path = f"{where}.content[{i}]"
        if part.type != "text" or part.text is None:
            raise InvalidRequest(f"{path}: this build serves text models only; send text parts", param=path)
        refuse_unsupported(part, f"{path}.")
        parts.append({"type": "text", "text": part.text})
    return parts
