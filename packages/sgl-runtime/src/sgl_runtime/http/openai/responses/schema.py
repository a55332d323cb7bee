# SPDX-License-Identifier: Apache-2.0
"""The body of `/v1/responses`; fields have the same three fates as those of chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from sgl_runtime.engine.sampling import SamplingFields
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.openai.schema import JsonObjectFormat, TextFormat
from sgl_runtime.http.unsupported import Unsupported, refuse_unsupported, unless


class Part(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A part of a content: input_text, output_text, reasoning_text, summary_text."""

    type: str
    text: str | None = None
    annotations: object = None  # of an answer that is sent back
    logprobs: object = None
    prompt_cache_breakpoint: object = None  # prefixes are cached without being told


class Item(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A message, a call, the output of one, or reasoning; OpenAI's answers have more fields than its
    inputs.
    """

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[Part] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[Part] | None = None
    id: object = None
    status: object = None
    phase: object = None
    caller: object = None
    summary: list[Part] | None = None
    encrypted_content: Unsupported = None
    namespace: Unsupported = None
    parsed_arguments: object = None  # put there by OpenAI's client


class FunctionTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Annotated[Any, unless([], ["direct"])] = None
    defer_loading: Annotated[Any, unless(False)] = None
    output_schema: Unsupported = None


class ChosenFunction(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"
):
    name: str


class AllowedFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class AllowedFunctions(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    mode: Literal["auto", "required"]
    tools: list[AllowedFunction]


class SchemaFormat(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="json_schema"
):
    name: str | None = None
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class TextConfig(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    format: TextFormat | JsonObjectFormat | SchemaFormat | None = None
    verbosity: Annotated[Any, unless("medium")] = None


class Reasoning(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Unsupported = None
    generate_summary: Unsupported = None
    context: Unsupported = None
    mode: Annotated[Any, unless("standard")] = None


class ResponsesStreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_obfuscation: Annotated[Any, unless(False)] = None


class ResponsesBody(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    model: str = "default"
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Meta(ge=1)] | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: ResponsesStreamOptions | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | AllowedFunctions | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    # extension
    chat_template_kwargs: dict[str, Any] | None = None
    # annotations
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    access_programs: Unsupported = None
    background: Annotated[Any, unless(False)] = None
    background_options: Unsupported = None
    context_management: Annotated[Any, unless([])] = None
    conversation: Unsupported = None
    image: Unsupported = None
    # Encrypted, reasoning can be sent back where nothing is stored; here it comes and goes in the open.
    include: Annotated[Any, unless([], ["reasoning.encrypted_content"])] = None
    max_tool_calls: Unsupported = None
    moderation: Unsupported = None
    prompt: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Annotated[Any, unless("in_memory", "in-memory")] = None
    service_tier: Annotated[Any, unless("auto", "default")] = None
    top_logprobs: Annotated[Any, unless(0)] = None
    truncation: Annotated[Any, unless("disabled")] = None


def check(body: ResponsesBody) -> None:
    """Raises InvalidRequest naming the first field that asks for what we do not do."""
    refuse_unsupported(body)
    if body.n not in (None, 1):
        raise InvalidRequest("n: a response has one answer; use /v1/chat/completions", param="n")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("stream_options: only with stream: true", param="stream_options")
    for name in ("stream_options", "text", "reasoning"):
        if (part := getattr(body, name)) is not None:
            refuse_unsupported(part, f"{name}.")
    for i, tool in enumerate(body.tools or ()):
        refuse_unsupported(tool, f"tools[{i}].")
    for i, item in enumerate(body.input if isinstance(body.input, list) else ()):
        refuse_unsupported(item, f"input[{i}].")
