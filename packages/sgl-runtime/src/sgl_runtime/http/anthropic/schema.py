# SPDX-License-Identifier: Apache-2.0
"""Anthropic's request bodies as structs, and what we do not do of them.

As with OpenAI's: a field is honoured, is an annotation (typed `object`: it asks for nothing that is not done
anyway), or is refused by name (`unsupported`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from sgl_runtime.http.unsupported import Unsupported, unless

_StopSequence: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]


class TextBlock(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: str
    cache_control: object = None  # prefixes are cached without being told
    citations: object = None


class SystemBlock(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str
    cache_control: object = None
    citations: object = None


class ThinkingBlock(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="thinking"
):
    thinking: str
    signature: str = ""


class RedactedThinkingBlock(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="redacted_thinking"
):
    data: str


class ToolUseBlock(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_use"
):
    id: str
    name: str
    input: dict[str, Any]
    cache_control: object = None
    caller: object = None  # put there by the client
    toolset_name: object = None


class ImageBlock(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="image"):
    source: Any
    cache_control: object = None


class DocumentBlock(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="document"
):
    source: Any
    cache_control: object = None
    citations: object = None
    context: object = None
    title: object = None


class ToolResultBlock(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool_result"
):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock | DocumentBlock] | None = None
    is_error: bool = False
    cache_control: object = None
    toolset_name: object = None


Block: TypeAlias = (
    TextBlock
    | ThinkingBlock
    | RedactedThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ImageBlock
    | DocumentBlock
)


class Message(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[Block]


class CustomTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool = False
    type: Literal["custom"] | None = None
    cache_control: object = None
    eager_input_streaming: object = None  # arguments are always streamed as they come
    allowed_callers: Annotated[Any, unless([], ["direct"])] = None
    defer_loading: Annotated[Any, unless(False)] = None
    input_examples: Annotated[Any, unless([])] = None


class ToolChoice(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: Unsupported = None
    display: Literal["omitted"] | None = None


class JsonFormat(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class CountBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What decides the prompt."""

    model: str
    messages: list[Message]
    system: str | list[SystemBlock] | None = None
    tools: list[CustomTool] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: object = None
    mcp_servers: Annotated[Any, unless([])] = None
    speed: Annotated[Any, unless("standard")] = None
    user_profile_id: Unsupported = None
    workspace_id: Unsupported = None


class MessagesBody(CountBody, kw_only=True, forbid_unknown_fields=True):
    max_tokens: Annotated[int, Meta(ge=1)]
    stop_sequences: Annotated[list[_StopSequence], Meta(max_length=64)] | None = None
    stream: bool = False
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    metadata: object = None
    service_tier: Literal["auto", "standard_only"] | None = None
    container: Unsupported = None
    diagnostics: Unsupported = None
    inference_geo: Unsupported = None
