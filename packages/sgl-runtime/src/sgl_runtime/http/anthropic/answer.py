# SPDX-License-Identifier: Apache-2.0
"""Pieces of an answer as Anthropic's content blocks: whole, or as the events of a stream."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any, Literal, TypeAlias, TypedDict
from uuid import uuid4

import msgspec

from sgl_runtime.engine.stream import Output
from sgl_runtime.errors import Overloaded
from sgl_runtime.http.reading import AnswerReader
from sgl_runtime.messages import Aborted, StoppedByLength, StoppedByString
from sgl_runtime.text.answer.pieces import Arguments, Call, Part, Piece, Reasoning, Text, part_begun, parts_of

StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnswerText(msgspec.Struct, tag_field="type", tag="text"):
    text: str
    citations: None = None


class AnswerThinking(msgspec.Struct, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""


class AnswerToolUse(msgspec.Struct, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


AnswerBlock: TypeAlias = AnswerText | AnswerThinking | AnswerToolUse


class MessageUsage(TypedDict):
    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnsweredMessage(TypedDict):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageWriter:
    """One message. stops: the request's own stop sequences. shows_thinking: False leaves thinking empty."""

    def __init__(
        self, id: str, model: str, reader: AnswerReader, stops: Collection[str], *, shows_thinking: bool
    ) -> None:
        self._id = id
        self._model = model
        self._reader = reader
        self._stops = frozenset(stop.encode() for stop in stops)
        self._shows_thinking = shows_thinking
        self._open: Part | None = None  # the part whose block is open
        self._index = -1  # of its block

    def whole(self, output: Output) -> AnsweredMessage:
        """The message of a finished sample."""
        blocks = [self._block(part) for part in parts_of(self._reader.add(output))]
        return self._message(output, blocks, *self._stop(output))

    def begin(self, output: Output) -> dict[str, Any]:
        """The first event; `output`: the first one, which is to be given to `events` as well."""
        message = self._message(output, [], None, None)
        message["usage"]["output_tokens"] = 0
        return {"type": "message_start", "message": message}

    def events(self, output: Output) -> Iterator[dict[str, Any]]:
        """What an output adds; the end of the message with the last."""
        for piece in self._reader.add(output):
            begun = part_begun(piece, self._open)
            if begun is not None:
                yield from self._close()
                self._open = begun
                self._index += 1
                yield {
                    "type": "content_block_start",
                    "index": self._index,
                    "content_block": self._block(begun),
                }
            if (delta := self._delta(piece)) is not None:
                yield {"type": "content_block_delta", "index": self._index, "delta": delta}
        if output.finish is not None:
            yield from self._close()
            reason, sequence = self._stop(output)
            delta = {"stop_reason": reason, "stop_sequence": sequence}
            yield {"type": "message_delta", "delta": delta, "usage": self._usage(output)}
            yield {"type": "message_stop"}

    def _close(self) -> Iterator[dict[str, Any]]:
        if self._open is not None:
            yield {"type": "content_block_stop", "index": self._index}
            self._open = None

    def _block(self, part: Part) -> AnswerBlock:
        match part.kind:
            case "text":
                return AnswerText(part.text)
            case "reasoning":
                return AnswerThinking(part.text if self._shows_thinking else "")
            case "call":
                return AnswerToolUse(f"toolu_{uuid4().hex}", part.name, _object(part.text))

    def _delta(self, piece: Piece) -> dict[str, Any] | None:
        match piece:
            case Text(text):
                return {"type": "text_delta", "text": text}
            case Arguments(text):
                return {"type": "input_json_delta", "partial_json": text}
            case Reasoning(text) if self._shows_thinking:
                return {"type": "thinking_delta", "thinking": text}
            case Call() | Reasoning():
                return None

    def _message(
        self, output: Output, blocks: list[AnswerBlock], reason: StopReason | None, sequence: str | None
    ) -> AnsweredMessage:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": blocks,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": self._usage(output),
        }

    def _usage(self, output: Output) -> MessageUsage:
        return {
            "input_tokens": len(output.sample.generate.tokens) - output.reused_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": output.reused_tokens,
            "output_tokens": output.completion_tokens,
        }

    def _stop(self, output: Output) -> tuple[StopReason, str | None]:
        """Why it ended, and the stop sequence that ended it. Raises Overloaded if nothing of this did."""
        match output.finish:
            case Aborted(reason):
                raise Overloaded(f"the answer was cut short: {reason}")
            case StoppedByLength():
                return "max_tokens", None
            case StoppedByString(text) if text in self._stops:
                return "stop_sequence", text.decode()
        return "tool_use" if self._reader.called else "end_turn", None


def _object(text: str) -> dict[str, Any]:
    """The arguments of a call. What is no object, since the model was cut short or got it wrong, is told as
    it is, under a name that no tool has.
    """
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"invalid_json": text}
