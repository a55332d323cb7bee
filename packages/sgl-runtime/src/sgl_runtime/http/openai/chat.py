# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/chat/completions`: the chat template turns messages into a prompt, the rest is a completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prepare import Ask
from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.body import read
from sgl_runtime.http.errors import json_response, openai_error
from sgl_runtime.http.openai.answer import Envelope, answer, events, finish_reason
from sgl_runtime.http.openai.logprobs import chat_entries
from sgl_runtime.http.openai.models import check_model, tokenizer_of
from sgl_runtime.http.openai.schema import (
    ChatBody,
    ChatMessage,
    ContentPart,
    check_common,
    refuse_unsupported,
    sampling_body,
    spelling,
)
from sgl_runtime.http.stream import EventStream, while_connected
from sgl_runtime.messages import LogprobSpec
from sgl_runtime.text.chat import ChatTemplate
from sgl_runtime.text.tokenizer import Tokenizer

DEFAULT_TEMPERATURE = 0.7
_DECODER = msgspec.json.Decoder(ChatBody)


async def chat_completions(api: Api, request: Request) -> ASGIApp:
    body = await read(request, _DECODER)
    check_model(api, body.model)
    check_common(body)
    tokenizer = tokenizer_of(api)
    envelope = Envelope(
        "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion", api.model_name
    )
    prepared = await api.preparation.prepare([_ask(api, body, envelope.id)])
    if not body.stream:
        whole = answer(api, prepared, envelope, lambda output: _choice(output, tokenizer))
        return json_response(await while_connected(request.receive, whole))
    stream = events(api, prepared, envelope, _delta_choices(tokenizer), options=body.stream_options)
    return EventStream(stream, openai_error)


def _ask(api: Api, body: ChatBody, id: str) -> Ask:
    if api.chat_template is None:
        raise InvalidRequest(
            "messages: the model brings no chat template; start the server with --chat-template, or use"
            " /v1/completions",
            param="messages",
        )
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if body.max_tokens not in (None, limit):
        raise InvalidRequest("max_tokens and max_completion_tokens differ: give one", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs: only with logprobs: true", param="top_logprobs")
    prompt = api.chat_template.render(_messages(body.messages), add_generation_prompt=True)
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    sampling = sampling_body(body, limit)
    sampling.stop = _stops(api, api.chat_template, sampling.stop)
    if sampling.temperature is None:
        sampling.temperature = DEFAULT_TEMPERATURE
    return Ask(
        prompt=prompt,
        source="messages",
        sampling=sampling,
        spell=spelling(body, max_new_tokens=field, top_logprobs_num="top_logprobs"),
        id=id,
        rid=id,
        default_length=None,
        add_special=False,
        logprobs=LogprobSpec(top=body.top_logprobs or 0) if body.logprobs else None,
    )


def _stops(api: Api, template: ChatTemplate, given: str | list[str] | None) -> list[str]:
    """The stop strings of the request and of the template, but for what ends any text of this model."""
    stops = [given] if isinstance(given, str) else given or []
    vocabulary = tokenizer_of(api).vocabulary
    ends = {vocabulary[token].decode(errors="replace") for token in api.model.eos}
    return [*stops, *(stop for stop in template.stop if stop not in ends)]


def _messages(messages: list[ChatMessage]) -> list[dict[str, Any]]:
    """For the template. Raises InvalidRequest for what is not text or is no turn of a chat."""
    if not messages:
        raise InvalidRequest("messages: the list is empty", param="messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message: ChatMessage, where: str) -> dict[str, Any]:
    if message.role in ("tool", "function"):
        raise InvalidRequest(
            f"{where}.role: this build does not support tool calls yet", param=f"{where}.role"
        )
    refuse_unsupported(message, f"{where}.")
    if message.content is None:
        raise InvalidRequest(f"{where}.content: text is expected", param=f"{where}.content")
    # "developer" is OpenAI's newer word for "system"; templates know the older one.
    turn = {
        "role": "system" if message.role == "developer" else message.role,
        "content": _content(message.content, where),
    }
    return turn if message.name is None else {**turn, "name": message.name}


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


def _choice(output: Output, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "index": output.sample.index,
        "message": {"role": "assistant", "content": output.text},
        "logprobs": _logprobs(output, tokenizer),
        "finish_reason": finish_reason(output.finish),
    }


def _delta_choices(tokenizer: Tokenizer) -> Callable[[Output], list[dict[str, Any]]]:
    """Render an output for the events of a stream: the role once, then text, then the finish reason by
    itself.
    """
    begun: set[int] = set()

    def render(output: Output) -> list[dict[str, Any]]:
        index = output.sample.index
        choices: list[dict[str, Any]] = []

        def add(delta: dict[str, str], logprobs: Any = None, finish: str | None = None) -> None:
            choices.append({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

        if index not in begun:
            begun.add(index)
            add({"role": "assistant", "content": ""})
        logprobs = _logprobs(output, tokenizer)
        if output.new_text or (logprobs is not None and logprobs["content"]):
            add({"content": output.new_text}, logprobs)
        if output.finish is not None:
            add({}, finish=finish_reason(output.finish))
        return choices

    return render


def _logprobs(output: Output, tokenizer: Tokenizer) -> dict[str, Any] | None:
    if output.sample.generate.logprobs is None:
        return None
    entries = [] if output.output_logprobs is None else chat_entries(tokenizer, output.output_logprobs)
    return {"content": entries, "refusal": None}
