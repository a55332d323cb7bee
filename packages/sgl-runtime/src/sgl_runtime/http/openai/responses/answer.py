# SPDX-License-Identifier: Apache-2.0
"""Pieces of an answer as items of a response: whole, or as the events of a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, Literal
from uuid import uuid4

from sgl_runtime.engine.stream import Output
from sgl_runtime.http.openai.responses.shapes import (
    AnsweredResponse,
    OutputContent,
    OutputItem,
    ResponseFields,
    ResponseUsage,
    Status,
)
from sgl_runtime.http.reading import AnswerReader
from sgl_runtime.messages import Aborted, StoppedByLength
from sgl_runtime.text.answer.formats import new_call_id
from sgl_runtime.text.answer.pieces import Call, Part, part_begun

_PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
_TYPES: dict[str, Literal["message", "reasoning", "function_call"]] = {
    "text": "message",
    "reasoning": "reasoning",
    "call": "function_call",
}
_DELTAS = {
    "text": "response.output_text.delta",
    "reasoning": "response.reasoning_text.delta",
    "call": "response.function_call_arguments.delta",
}


class _Open:
    """An item that is being written."""

    def __init__(self, part: Part, index: int) -> None:
        self.part = part
        self.index = index
        self.id = f"{_PREFIXES[part.kind]}_{uuid4().hex}"
        self.call_id = new_call_id()

    def item(self, status: Status) -> OutputItem:
        """With what has been written so far."""
        item: OutputItem = {"id": self.id, "type": _TYPES[self.part.kind], "status": status}
        match self.part.kind:
            case "text":
                item["role"] = "assistant"
                item["content"] = [self.content()] if self.part.text else []
            case "reasoning":
                item["summary"] = []
                item["content"] = [self.content()] if self.part.text else []
            case "call":
                item["call_id"] = self.call_id
                item["name"] = self.part.name
                item["arguments"] = self.part.text
        return item

    def content(self, text: str | None = None) -> OutputContent:
        text = self.part.text if text is None else text
        if self.part.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class ResponseWriter:
    """One response. `fields`: those around the answer, which do not change."""

    def __init__(self, reader: AnswerReader, fields: ResponseFields) -> None:
        self._reader = reader
        self._fields = fields
        self._open: _Open | None = None
        self._written: list[_Open] = []  # those before it
        self._output: list[OutputItem] = []  # their items
        self._sequence = 0
        self.response: AnsweredResponse | None = None  # when it has ended

    def begin(self) -> Iterator[dict[str, Any]]:
        response: AnsweredResponse = {
            **self._fields,
            "status": "in_progress",
            "output": [],
            "usage": None,
        }
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)

    def events(self, output: Output) -> Iterator[dict[str, Any]]:
        """What an output adds; the end of the response with the last."""
        for piece in self._reader.add(output):
            begun = part_begun(piece, None if self._open is None else self._open.part)
            if begun is not None:
                yield from self._close("completed")
                yield from self._begin_item(begun)
            if not isinstance(piece, Call):
                assert self._open is not None, "a piece belongs to a part"
                self._open.part.text += piece.text
                yield self._of_item(_DELTAS[self._open.part.kind], delta=piece.text)
        if output.finish is not None:
            whole = not isinstance(output.finish, StoppedByLength | Aborted)
            yield from self._close("completed" if whole else "incomplete")
            self.response = self._ended(output)
            yield self._event(f"response.{self.response['status']}", response=self.response)

    def turn(self) -> dict[str, Any]:
        """The answer as a turn of the conversation; calls that were broken off are no part of it."""
        turn: dict[str, Any] = {"role": "assistant", "content": ""}
        for written in self._written:
            part = written.part
            if part.kind == "text":
                turn["content"] += part.text
            elif part.kind == "reasoning":
                turn["reasoning_content"] = part.text
            elif (arguments := _object(part.text)) is not None:
                function = {"name": part.name, "arguments": arguments}
                call = {"id": written.call_id, "type": "function", "function": function}
                turn.setdefault("tool_calls", []).append(call)
        return turn

    def _begin_item(self, part: Part) -> Iterator[dict[str, Any]]:
        self._open = _Open(part, len(self._output))
        item = self._open.item("in_progress")
        yield self._event("response.output_item.added", output_index=self._open.index, item=item)
        if part.kind != "call":
            yield self._of_item("response.content_part.added", part=self._open.content(""))

    def _ended(self, output: Output) -> AnsweredResponse:
        response: AnsweredResponse = {
            **self._fields,
            "status": "completed",
            "output": self._output,
            "usage": _usage(output, self._reader),
        }
        match output.finish:
            case StoppedByLength():
                response["status"] = "incomplete"
                response["incomplete_details"] = {"reason": "max_output_tokens"}
            case Aborted(reason):
                response["status"] = "failed"
                response["error"] = {"code": "server_error", "message": reason}
            case _:
                response["completed_at"] = int(time.time())
        return response

    def _close(self, status: Status) -> Iterator[dict[str, Any]]:
        if self._open is None:
            return
        part = self._open.part
        match part.kind:
            case "text":
                yield self._of_item("response.output_text.done", text=part.text)
            case "reasoning":
                yield self._of_item("response.reasoning_text.done", text=part.text)
            case "call":
                yield self._of_item(
                    "response.function_call_arguments.done", name=part.name, arguments=part.text
                )
        if part.kind != "call":
            yield self._of_item("response.content_part.done", part=self._open.content())
        item = self._open.item(status)
        self._output.append(item)
        self._written.append(self._open)
        yield self._event("response.output_item.done", output_index=self._open.index, item=item)
        self._open = None

    def _of_item(self, type: str, **fields: Any) -> dict[str, Any]:
        assert self._open is not None, "an item is open"
        fields = {"item_id": self._open.id, "output_index": self._open.index, **fields}
        if self._open.part.kind != "call":
            fields["content_index"] = 0
        if type.startswith("response.output_text"):
            fields["logprobs"] = []
        return self._event(type, **fields)

    def _event(self, type: str, **fields: Any) -> dict[str, Any]:
        self._sequence += 1
        return {"type": type, "sequence_number": self._sequence - 1, **fields}


def _usage(output: Output, reader: AnswerReader) -> ResponseUsage:
    prompt, completion = len(output.sample.generate.tokens), output.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": output.reused_tokens, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reader.reasoning_tokens},
        "total_tokens": prompt + completion,
    }


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
