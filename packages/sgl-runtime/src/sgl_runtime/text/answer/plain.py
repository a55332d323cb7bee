# SPDX-License-Identifier: Apache-2.0
"""Tools in plain words, for chat templates that have no place for them.

The system message describes them and how to call them; calls and their results, which such a template does
not know either, become contents of the turns it does know.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sgl_runtime.text.answer.formats import CallFormat

_INTRODUCTION = """You can call functions. Each of these lines describes one:
{tools}
To call functions, answer with nothing but the calls, in this form:
{example}
The results come in the next message, between <tool_response> and </tool_response>."""


def without_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], format: CallFormat
) -> list[dict[str, Any]]:
    """The same conversation, for a template that knows system, user and assistant only.

    Messages and tools are as OpenAI has them, the arguments of calls as objects; contents become texts.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        turn = _turn(message, format)
        if turns and message["role"] == "tool" and turns[-1].get("results"):
            turns[-1]["content"] += f"\n{turn['content']}"
        else:
            turns.append({**turn, "results": message["role"] == "tool"})
    plain = [{key: value for key, value in turn.items() if key != "results"} for turn in turns]
    if not tools:
        return plain
    introduction = introduce(tools, format)
    if plain and plain[0]["role"] == "system":
        plain[0] = {**plain[0], "content": f"{plain[0]['content']}\n\n{introduction}"}
        return plain
    return [{"role": "system", "content": introduction}, *plain]


def introduce(tools: Sequence[Mapping[str, Any]], format: CallFormat) -> str:
    functions = [tool["function"] for tool in tools]
    lines = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    example = format.write([(functions[0]["name"], {"argument": "value"})])
    return _INTRODUCTION.format(tools=lines, example=example)


def text_of(content: Any) -> str:
    """Of a content that is a text, a list of text parts, or nothing."""
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""


def _turn(message: Mapping[str, Any], format: CallFormat) -> dict[str, Any]:
    content = text_of(message.get("content"))
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    if not message.get("tool_calls"):
        return {**message, "content": content}
    functions = [call["function"] for call in message["tool_calls"]]
    calls = format.write([(function["name"], function["arguments"]) for function in functions])
    return {"role": message["role"], "content": f"{content}\n{calls}" if content else calls}
