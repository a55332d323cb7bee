# SPDX-License-Identifier: Apache-2.0
"""OpenAI's request bodies as structs, and what we do not do of them.

Every field of OpenAI's has one of three fates: honoured; an annotation that asks for nothing (`user`,
`metadata`, …); or refused by name (`unsupported`). None is accepted and ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sgl_runtime.engine.sampling import SamplingBody, SamplingFields
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.unsupported import Unsupported, refuse_unsupported, unless

MAX_TOP_LOGPROBS = 20

_Length: TypeAlias = Annotated[int, Meta(ge=0)]
_Top: TypeAlias = Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)]
_SPELLING = {"max_new_tokens": "max_tokens", "min_new_tokens": "min_tokens", "top_logprobs_num": "logprobs"}


class StreamOptions(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: Annotated[Any, unless(False)] = None


class TextFormat(msgspec.Struct, tag_field="type", tag="text", forbid_unknown_fields=True):
    """Any text."""


class JsonObjectFormat(msgspec.Struct, tag_field="type", tag="json_object", forbid_unknown_fields=True):
    """Any JSON object."""


class NamedSchema(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`strict` or not, the text follows the schema; its name and description are for the caller."""

    schema: dict[str, Any] | bool
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(msgspec.Struct, tag_field="type", tag="json_schema", forbid_unknown_fields=True):
    json_schema: NamedSchema


class CommonBody(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """What both endpoints have beside the sampling parameters."""

    model: str = "default"
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    min_tokens: _Length | None = None
    response_format: TextFormat | JsonObjectFormat | JsonSchemaFormat | None = None
    # annotations
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CompletionBody(CommonBody, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[str | int | list[int]]
    max_tokens: _Length | UnsetType | None = UNSET  # absent: 16; null: what fits
    logprobs: _Top | None = None
    echo: bool | None = None
    best_of: Annotated[int, Meta(ge=1, le=1024)] | None = None
    suffix: Annotated[Any, unless("")] = None


class ContentPart(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: str
    text: str | None = None
    image_url: Unsupported = None
    input_audio: Unsupported = None
    file: Unsupported = None
    refusal: Unsupported = None


class CalledFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    arguments: str = "{}"
    parsed_arguments: object = None  # put there by OpenAI's client, from the arguments


class ToolCall(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of a streamed call that is sent back as it came


class ChatMessage(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    # What an answer of OpenAI's may hold when a client sends it back.
    annotations: Annotated[Any, unless([])] = None
    audio: Unsupported = None
    function_call: Annotated[Any, unless("none", "auto")] = None
    refusal: Unsupported = None
    parsed: object = None  # put there by OpenAI's client, from the content


class Function(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: Function


class NamedFunction(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str


class NamedTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: NamedFunction


class AllowedTool(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    type: Literal["function"]
    function: NamedFunction


class AllowedTools(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool]


class AllowedChoice(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="allowed_tools"
):
    allowed_tools: AllowedTools


class ChatBody(CommonBody, kw_only=True, forbid_unknown_fields=True):
    messages: list[ChatMessage]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: _Top | None = None
    tools: list[ToolBody] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    # extensions
    separate_reasoning: bool | None = None  # false: leave it in the text
    continue_final_message: bool | None = None  # the last message, the assistant's, begins the answer
    chat_template_kwargs: dict[str, Any] | None = None
    audio: Unsupported = None
    function_call: Annotated[Any, unless("none", "auto")] = None
    functions: Annotated[Any, unless([])] = None
    modalities: Annotated[Any, unless(["text"])] = None
    moderation: Unsupported = None
    prediction: Unsupported = None
    prompt_cache_options: Unsupported = None
    prompt_cache_retention: Annotated[Any, unless("in_memory", "in-memory")] = None
    service_tier: Annotated[Any, unless("auto", "default")] = None
    verbosity: Annotated[Any, unless("medium")] = None
    web_search_options: Unsupported = None


_ANY_OBJECT = {"type": "object"}


def check_common(body: CommonBody) -> None:
    """Raises InvalidRequest for what both endpoints refuse."""
    refuse_unsupported(body)
    if body.stream_options is not None:
        if not body.stream:
            raise InvalidRequest("stream_options: only with stream: true", param="stream_options")
        refuse_unsupported(body.stream_options, "stream_options.")


def sampling_body(body: CommonBody, max_new_tokens: int | None) -> SamplingBody:
    """The same parameters in the engine's spelling."""
    alike = {name: getattr(body, name) for name in SamplingFields.__struct_fields__}
    match body.response_format:
        case JsonObjectFormat():
            schema: dict[str, Any] | bool | None = _ANY_OBJECT
        case JsonSchemaFormat(json_schema):
            schema = json_schema.schema
        case _:
            schema = None
    if schema is not None:
        if body.json_schema is not None:
            raise InvalidRequest(
                "response_format and json_schema both say what the text must be: give one",
                param="response_format",
            )
        alike["json_schema"] = schema
    return SamplingBody(**alike, max_new_tokens=max_new_tokens, min_new_tokens=body.min_tokens)


def spelling(body: CommonBody, **fields: str) -> Callable[[str], str]:
    """From the engine's names of fields to OpenAI's; `fields` where an endpoint has its own."""
    names = {**_SPELLING, **fields}
    match body.response_format:
        case JsonObjectFormat():
            names["json_schema"] = "response_format"
        case JsonSchemaFormat():
            names["json_schema"] = "response_format.json_schema.schema"
    return lambda field: names.get(field, field)
