# SPDX-License-Identifier: Apache-2.0
"""Items -> the turns of a dialogue.

Reasoning, a message and calls that follow one another are one turn of the assistant's, as the model wrote
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Dialogue, Tool, effort
from sgl_runtime.http.openai.messages import arguments_of
from sgl_runtime.http.openai.responses.schema import (
    AllowedFunctions,
    ChosenFunction,
    Item,
    Part,
    ResponsesBody,
)

_TEXTS = ("input_text", "output_text", "reasoning_text", "summary_text", "text")


def dialogue_of(api: Api, body: ResponsesBody, turns: list[dict[str, Any]]) -> Dialogue:
    """`turns`: all of the conversation, without the instructions."""
    choice, allowed = "auto", None
    match body.tool_choice:
        case str() as choice:
            pass
        case ChosenFunction(name=name):
            choice, allowed = "required", frozenset({name})
        case AllowedFunctions(mode=mode, tools=tools):
            choice, allowed = mode, frozenset(tool.name for tool in tools)
    system = [] if body.instructions is None else [{"role": "system", "content": body.instructions}]
    asked = None if body.reasoning is None else body.reasoning.effort
    return Dialogue(
        messages=[*system, *turns],
        tools=[
            Tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                strict=bool(tool.strict),
            )
            for tool in body.tools or ()
        ],
        choice=choice,  # type: ignore[arg-type]  # one of the literals of the body
        allowed=allowed,
        parallel=body.parallel_tool_calls is not False,
        variables={**effort(api, asked), **(body.chat_template_kwargs or {})},
    )


def turns_of(given: str | list[Item]) -> list[dict[str, Any]]:
    """Raises InvalidRequest for what is not text, or lacks what its type needs."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not given:
        raise InvalidRequest("input: the list is empty", param="input")
    turns: list[dict[str, Any]] = []
    answering = False  # the last turn is the assistant's, and may go on
    for i, item in enumerate(given):
        where = f"input[{i}]"
        match item.type:
            case "function_call_output":
                answering = False
                output = _text(_need(item, "output", where), f"{where}.output")
                turns.append(
                    {"role": "tool", "tool_call_id": _need(item, "call_id", where), "content": output}
                )
            case "message" if item.role != "assistant":
                answering = False
                role = _need(item, "role", where)
                content = _text(_need(item, "content", where), f"{where}.content")
                turns.append({"role": "system" if role == "developer" else role, "content": content})
            case _:
                if not answering or (item.type == "reasoning" and turns[-1].keys() != {"role", "content"}):
                    turns.append({"role": "assistant", "content": ""})
                answering = True
                _extend(turns[-1], item, where)
    return turns


def _extend(turn: dict[str, Any], item: Item, where: str) -> None:
    """Add to an assistant's turn."""
    match item.type:
        case "message":
            turn["content"] += _text(_need(item, "content", where), f"{where}.content")
        case "reasoning":
            parts = item.content or item.summary or ""
            turn["reasoning_content"] = turn.get("reasoning_content", "") + _text(parts, f"{where}.content")
        case "function_call":
            arguments = arguments_of(_need(item, "arguments", where), where)
            function = {"name": _need(item, "name", where), "arguments": arguments}
            call = {"id": _need(item, "call_id", where), "type": "function", "function": function}
            turn.setdefault("tool_calls", []).append(call)


def _need(item: Item, field: str, where: str) -> Any:
    value = getattr(item, field)
    if value is None:
        raise InvalidRequest(
            f"{where}.{field}: an item of type {item.type} needs it", param=f"{where}.{field}"
        )
    return value


def _text(content: str | Sequence[Part], where: str) -> str:
    if isinstance(content, str):
        return content
    for i, part in enumerate(content):
        if part.type not in _TEXTS or part.text is None:
            path = f"{where}[{i}]"
            raise InvalidRequest(f"{path}: this build serves text models only; send text parts", param=path)
    return "\n".join(part.text or "" for part in content)
