# SPDX-License-Identifier: Apache-2.0
"""`AnthropicWire`: Anthropic's Messages API in both of its versions, as strict as theirs.

Formats: the types of the official client, https://platform.claude.com/docs/en/api/messages, and for what the
versions differ in https://platform.claude.com/docs/en/api/migration-2026-10-21.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from wire import Answer, Asked, Refused, Wire, known

KEY = "sk-ant-api03-test-0123456789"
_SAMPLING = ("temperature", "top_p", "top_k")
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_REASONS = {"stop": "end_turn", "length": "max_tokens"}


class AnthropicWire(Wire):
    """Attributes:
    samples: the model still knows temperature, top_p and top_k. continues: it goes on with a begun turn.
    """

    def __init__(self) -> None:
        super().__init__()
        self.samples = True
        self.continues = True

    def reply(self, asked: Asked) -> tuple[bool, Any]:
        body, headers = asked.body, asked.headers
        if asked.path != "/v1/messages":
            raise Refused(404, "Not Found")
        if headers.get("authorization") != f"Bearer {KEY}" and headers.get("x-api-key") != KEY:
            given = headers.get("authorization", "").removeprefix("Bearer ")
            raise Refused(401, f"invalid x-api-key: {given}")
        version = headers.get("anthropic-version")
        if version not in ("2023-06-01", "2026-10-21"):
            raise Refused(400, f"anthropic-version: {version!r} is not a valid version")
        known(
            body,
            *("model", "max_tokens", "messages", "system", "stop_sequences", "stream", "output_config"),
            *(_SAMPLING if version == "2023-06-01" else ()),
        )
        self._check(body)
        answer = self.answer(body, stop=body.get("stop_sequences") or [], max_tokens=body["max_tokens"])
        return (True, self._events(answer)) if body.get("stream") else (False, self._message(answer))

    def _check(self, body: dict[str, Any]) -> None:
        for field in _SAMPLING:
            if field in body and not self.samples:
                raise Refused(400, f"`{field}` is deprecated for this model.")
        if "temperature" in body and "top_p" in body:
            raise Refused(400, "`temperature` and `top_p` cannot both be specified for this model.")
        for stop in body.get("stop_sequences") or []:
            if not stop.strip():
                raise Refused(400, "stop_sequences: each stop sequence must contain non-whitespace")
        messages = body["messages"]
        if not messages:
            raise Refused(400, "messages: at least one message is required")
        for message in messages:
            for block in message["content"]:
                _check_block(block)
        if messages[-1]["role"] == "assistant":
            if not self.continues:
                raise Refused(400, "This model does not support assistant message prefill.")
            if messages[-1]["content"][-1]["text"].rstrip() != messages[-1]["content"][-1]["text"]:
                raise Refused(400, "messages: final assistant content cannot end with trailing whitespace")
        schema = (body.get("output_config") or {}).get("format")
        if schema is not None and schema["schema"].get("additionalProperties") is not False:
            raise Refused(400, "For 'object' type, 'additionalProperties' must be explicitly set to false")

    def _message(self, answer: Answer) -> Any:
        content = [{"type": "thinking", "thinking": "hm", "signature": "x"}]
        if answer.pieces:
            content.append({"type": "text", "text": answer.text})
        usage = {"input_tokens": 5, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 1}
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": content,
            **_end(answer),
            "usage": {**usage, "output_tokens": len(answer.pieces)},
        }

    def _events(self, answer: Answer) -> Iterator[tuple[str | None, Any, bool]]:
        begun = self._message(Answer([], "stop"))
        begun |= {"content": [], "stop_reason": None, "stop_sequence": None}

        def event(kind: str, is_text: bool = False, **data: Any) -> tuple[str, Any, bool]:
            return kind, {"type": kind, **data}, is_text

        yield event("message_start", message=begun)
        yield event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
        yield event(
            "content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "let me see"}
        )
        yield event("content_block_stop", index=0)
        yield event("content_block_start", index=1, content_block={"type": "text", "text": ""})
        yield event("ping")
        for piece in answer.pieces:
            yield event("content_block_delta", True, index=1, delta={"type": "text_delta", "text": piece})
        yield event("content_block_stop", index=1)
        yield event("message_delta", delta=_end(answer), usage={"output_tokens": len(answer.pieces)})
        yield event("message_stop")

    def error(self, status: int, message: str) -> Any:
        return {
            "type": "error",
            "error": {"type": _KINDS.get(status, "api_error"), "message": message},
            "request_id": "req_1",
        }

    def error_event(self, status: int, message: str) -> tuple[str | None, Any]:
        return "error", self.error(status, message)


def _end(answer: Answer) -> dict[str, Any]:
    if answer.stop is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop}
    return {"stop_reason": _REASONS.get(answer.reason, answer.reason), "stop_sequence": None}


def _check_block(block: dict[str, Any]) -> None:
    if block["type"] == "text":
        known(block, "type", "text")
        if not block["text"]:
            raise Refused(400, "messages: text content blocks must be non-empty")
    elif block["type"] == "image":
        source = block["source"]
        if source["type"] == "base64":
            base64.b64decode(source["data"], validate=True)
            if source["media_type"] not in ("image/png", "image/jpeg", "image/gif", "image/webp"):
                raise Refused(400, "source.base64.media_type: Input should be 'image/jpeg', ...")
        elif source["type"] != "url":
            raise Refused(400, "source: unknown type")
    else:
        raise Refused(400, f"content: unknown block type {block['type']}")
