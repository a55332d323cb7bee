# SPDX-License-Identifier: Apache-2.0
"""Anthropic's messages, tools and thinking -> the dialogue that all protocols share.

A turn of theirs holds blocks; a turn of a chat template is text, calls, or the result of one call. So a
user's turn with results becomes several, in the order of its blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.anthropic.schema import (
    Block,
    CountBody,
    DocumentBlock,
    ImageBlock,
    Message,
    RedactedThinkingBlock,
    SystemBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Dialogue, Tool, effort
from sgl_runtime.http.unsupported import refuse_unsupported


def dialogue_of(api: Api, body: CountBody) -> Dialogue:
    """Raises InvalidRequest for what is not text, or is no tool of ours."""
    if not body.messages:
        raise InvalidRequest("messages: the list is empty", param="messages")
    refuse_unsupported(body)
    for i, tool in enumerate(body.tools or ()):
        refuse_unsupported(tool, f"tools[{i}].")
    turns = [] if body.system is None else [{"role": "system", "content": _text(body.system)}]
    for i, message in enumerate(body.messages):
        turns += _turns(message, f"messages[{i}]")
    choice = body.tool_choice
    if choice is not None and (choice.name is not None) != (choice.type == "tool"):
        raise InvalidRequest(
            "tool_choice.name: goes with type 'tool', which needs it", param="tool_choice.name"
        )
    asked = "auto" if choice is None else choice.type
    return Dialogue(
        messages=turns,
        tools=[
            Tool(
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema,
                strict=tool.strict,
            )
            for tool in body.tools or ()
        ],
        choice="none" if asked == "none" else "auto" if asked == "auto" else "required",
        allowed=None if choice is None or choice.name is None else frozenset({choice.name}),
        parallel=choice is None or not choice.disable_parallel_tool_use,
        continues=turns[-1]["role"] == "assistant",
        variables=_thinking(api, body),
    )


def _thinking(api: Api, body: CountBody) -> dict[str, Any]:
    given, config = body.thinking, body.output_config
    asked = None if config is None else config.effort
    if given is not None and given.budget_tokens is not None:
        raise InvalidRequest(
            "thinking.budget_tokens: reasoning cannot be cut to a length here; send {'type': 'adaptive'}",
            param="thinking.budget_tokens",
        )
    if given is not None and given.type == "disabled":
        return effort(api, "none")
    return effort(api, asked)


def _turns(message: Message, where: str) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, where)]
    turns: list[dict[str, Any]] = []
    for i, block in enumerate(message.content):
        path = f"{where}.content[{i}]"
        match block:
            case TextBlock(text=text):
                if turns and turns[-1]["role"] == message.role:
                    turns[-1]["content"] += f"\n{text}"
                else:
                    turns.append({"role": message.role, "content": text})
            case ToolResultBlock() if message.role == "user":
                turns.append(
                    {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block, path)}
                )
            case _:
                raise _misplaced(block, message.role, path)
    if not turns:
        raise InvalidRequest(f"{where}.content: the list is empty", param=f"{where}.content")
    return turns


def _assistant(blocks: list[Block], where: str) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": "assistant", "content": ""}
    for i, block in enumerate(blocks):
        match block:
            case TextBlock(text=text):
                turn["content"] += text
            case ThinkingBlock(thinking=thinking):
                turn["reasoning_content"] = turn.get("reasoning_content", "") + thinking
            case ToolUseBlock(id=id, name=name, input=input):
                function = {"name": name, "arguments": input}
                turn.setdefault("tool_calls", []).append({"id": id, "type": "function", "function": function})
            case _:
                raise _misplaced(block, "assistant", f"{where}.content[{i}]")
    return turn


def _result(block: ToolResultBlock, where: str) -> str:
    """Templates have no mark for failure: it is said in words."""
    if block.content is None or isinstance(block.content, str):
        text = block.content or ""
    else:
        texts = []
        for i, part in enumerate(block.content):
            if not isinstance(part, TextBlock):
                raise _misplaced(part, "tool", f"{where}.content[{i}]")
            texts.append(part)
        text = _text(texts)
    return f"Error: {text}" if block.is_error else text


def _text(content: str | Sequence[TextBlock | SystemBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)


def _misplaced(block: Block, role: str, where: str) -> InvalidRequest:
    kind = block.__struct_config__.tag
    if isinstance(block, ImageBlock | DocumentBlock):
        why = "this build serves text models only; send text blocks"
    elif isinstance(block, RedactedThinkingBlock):
        why = "what another service has encrypted cannot be read here; leave it out"
    else:
        why = f"it does not belong in a message of role {role!r}"
    return InvalidRequest(f"{where}: {kind}: {why}", param=where)
