# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/chat/completions`: the chat template turns messages into a prompt, the rest is a completion."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.request import PreparedRequest
from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import InvalidRequest
from sgl_runtime.http.api import Api
from sgl_runtime.http.dialogue import Composed, compose, template_of
from sgl_runtime.http.errors import json_response, openai_error
from sgl_runtime.http.openai.answer import (
    Answer,
    CompletionDetails,
    Envelope,
    Event,
    FinishReason,
    answer,
    events,
    finish_reason,
)
from sgl_runtime.http.openai.logprobs import Entry, chat_entries
from sgl_runtime.http.openai.messages import dialogue_of
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_text_request
from sgl_runtime.http.openai.schema import ChatBody, check_common, sampling_body, spelling
from sgl_runtime.http.operation import operation
from sgl_runtime.http.reading import AnswerReader
from sgl_runtime.http.stream import EventStream, while_connected
from sgl_runtime.messages import LogprobSpec
from sgl_runtime.text.answer.formats import new_call_id
from sgl_runtime.text.answer.pieces import Arguments, Call, Piece, Reasoning, Text, parts_of
from sgl_runtime.text.tokenizer import Tokenizer

DEFAULT_TEMPERATURE = 0.7
_DECODER = msgspec.json.Decoder(ChatBody)


class FunctionPiece(TypedDict):
    name: NotRequired[str]
    arguments: str


class CalledTool(TypedDict):
    """A call. In a stream: the first event of one; those after it have its index and more arguments."""

    index: NotRequired[int]
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: FunctionPiece


class AnswerMessage(TypedDict):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[CalledTool]]


class AnswerDelta(TypedDict, total=False):
    """What an event adds to the message."""

    role: Literal["assistant"]
    content: str
    reasoning_content: str
    tool_calls: list[CalledTool]


class ChatLogprobs(TypedDict):
    content: list[Entry]
    refusal: None


class ChatChoice(TypedDict):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatEventChoice(TypedDict):
    index: int
    delta: AnswerDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason | None


class ChatCompletion(Answer[ChatChoice]): ...


class ChatCompletionEvent(Event[ChatEventChoice]): ...


@operation(
    reads=_DECODER,
    answers=ChatCompletion,
    streams=ChatCompletionEvent,
    refuses=UNKNOWN_MODEL,
    example={"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 8},
)
async def chat_completions(api: Api, request: Request) -> ASGIApp:
    """Answer a chat, with tools if there are any: OpenAI's protocol."""
    body, tokenizer = await read_text_request(api, request, _DECODER)
    check_common(body)
    template_of(api)
    envelope = Envelope(
        "chatcmpl", "chat.completion.chunk" if body.stream else "chat.completion", api.model_name
    )
    composed = await _compose(api, body)
    logprobs = LogprobSpec(top=body.top_logprobs or 0) if body.logprobs else None
    prepared = await api.preparation.prepare([composed.ask(envelope.id, "messages", logprobs)])
    choices = _Choices(api, tokenizer, composed, prepared)
    if not body.stream:
        whole = answer(api, prepared, envelope, choices.whole, details=choices.details)
        return json_response(await while_connected(request.receive, whole))
    stream = events(
        api, prepared, envelope, choices.deltas, options=body.stream_options, details=choices.details
    )
    return EventStream(stream, openai_error)


async def _compose(api: Api, body: ChatBody) -> Composed:
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    if body.max_tokens not in (None, limit):
        raise InvalidRequest("max_tokens and max_completion_tokens differ: give one", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs: only with logprobs: true", param="top_logprobs")
    sampling = sampling_body(body, limit)
    if sampling.temperature is None:
        sampling.temperature = DEFAULT_TEMPERATURE
    field = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    spell = spelling(body, max_new_tokens=field, top_logprobs_num="top_logprobs")
    return await compose(api, dialogue_of(api, body), sampling, spell)


class _Choices:
    """The samples of one request, as members of `choices`."""

    def __init__(self, api: Api, tokenizer: Tokenizer, composed: Composed, prepared: PreparedRequest) -> None:
        self._tokenizer = tokenizer
        self._readers = [AnswerReader(api, composed) for _ in prepared.samples]
        self._deltas = [_Deltas() for _ in prepared.samples]
        self._reasons = composed.reader is not None and api.dialect is not None and bool(api.dialect.marks)

    def whole(self, output: Output) -> ChatChoice:
        reader = self._readers[output.sample.index]
        return {
            "index": output.sample.index,
            "message": _message(reader.add(output)),
            "logprobs": self._logprobs(output),
            "finish_reason": _finish(output, reader),
        }

    def deltas(self, output: Output) -> list[ChatEventChoice]:
        """For the events of a stream: the role once, then what is new, then the finish reason by itself."""
        index = output.sample.index
        reader, deltas = self._readers[index], self._deltas[index]
        logprobs = self._logprobs(output)
        rendered = [deltas.render(piece) for piece in reader.add(output)]
        if not rendered and logprobs is not None and logprobs["content"]:
            rendered = [{"content": ""}]
        choices: list[ChatEventChoice] = [
            {"index": index, "delta": delta, "logprobs": logprobs if i == 0 else None, "finish_reason": None}
            for i, delta in enumerate(rendered)
        ]
        if not deltas.begun:
            deltas.begun = True
            first: AnswerDelta = {"role": "assistant", "content": ""}
            choices.insert(0, {"index": index, "delta": first, "logprobs": None, "finish_reason": None})
        if output.finish is not None:
            finish = _finish(output, reader)
            choices.append({"index": index, "delta": {}, "logprobs": None, "finish_reason": finish})
        return choices

    def details(self) -> CompletionDetails | None:
        """What usage says of the completion beside its length."""
        if not self._reasons:
            return None
        return {"reasoning_tokens": sum(reader.reasoning_tokens for reader in self._readers)}

    def _logprobs(self, output: Output) -> ChatLogprobs | None:
        if output.sample.generate.logprobs is None:
            return None
        logprobs = output.output_logprobs
        entries = [] if logprobs is None else chat_entries(self._tokenizer, logprobs)
        return {"content": entries, "refusal": None}


class _Deltas:
    """Where the stream of one sample is."""

    def __init__(self) -> None:
        self.begun = False
        self._calls = 0

    def render(self, piece: Piece) -> AnswerDelta:
        match piece:
            case Text(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text}
            case Call(name):
                self._calls += 1
                call: CalledTool = {
                    "index": self._calls - 1,
                    "id": new_call_id(),
                    "type": "function",
                    "function": {"name": name, "arguments": ""},
                }
                return {"tool_calls": [call]}
            case Arguments(text):
                return {"tool_calls": [{"index": self._calls - 1, "function": {"arguments": text}}]}


def _message(pieces: list[Piece]) -> AnswerMessage:
    """The pieces of a whole answer as a message."""
    parts = parts_of(pieces)
    content = "".join(part.text for part in parts if part.kind == "text")
    reasoning = "".join(part.text for part in parts if part.kind == "reasoning")
    calls: list[CalledTool] = [
        {"id": new_call_id(), "type": "function", "function": {"name": part.name, "arguments": part.text}}
        for part in parts
        if part.kind == "call"
    ]
    message: AnswerMessage = {"role": "assistant", "content": content}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["content"] = content or None
        message["tool_calls"] = calls
    return message


def _finish(output: Output, reader: AnswerReader) -> FinishReason | None:
    reason = finish_reason(output.finish)
    return "tool_calls" if reason == "stop" and reader.called else reason
