# SPDX-License-Identifier: Apache-2.0
"""`OpenAIWire`: OpenAI's chat and completions endpoints, and Azure's paths to them, as strict as theirs.

Formats: the types of the official client, and https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import tiktoken
from wire import Answer, Asked, Refused, Wire, known, words

KEY = "sk-test-0123456789abcdefXYZ"
_SAMPLING = (
    *("model", "stream", "stream_options", "n", "stop", "temperature", "top_p", "frequency_penalty"),
    *("presence_penalty", "logit_bias", "seed", "logprobs", "user"),
)


def bytewise(*merged: bytes) -> tiktoken.Encoding:
    """A tokenizer of single bytes and the given longer tokens, each made of two shorter ones."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    ranks |= {token: 256 + place for place, token in enumerate(merged)}
    return tiktoken.Encoding(
        "bytewise", pat_str=r"(?s).+", mergeable_ranks=ranks, special_tokens={"<|endoftext|>": 1000}
    )


class OpenAIWire(Wire):
    """Attributes:
    refuses: words with which the model refuses, in place of an answer.
    thinks: the model is one of the o series: no `max_tokens`, no `stop`, no sampling.
    limited: the limits of OpenAI's own service are held: four stop strings, no fields of other servers.
    tokenizer: of the completion model. prefers: which of the allowed tokens it takes next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.refuses: str | None = None
        self.thinks = False
        self.limited = True
        self.tokenizer = bytewise()
        self.prefers: Callable[[list[int], list[int]], int] = lambda text, allowed: min(allowed)

    # -- requests

    def reply(self, asked: Asked) -> tuple[bool, Any]:
        path, _, query = asked.path.partition("?")
        if "/openai/deployments/" in path:
            if asked.headers.get("api-key") != KEY or "api-version=" not in query:
                raise Refused(401, "Access denied due to invalid subscription key or wrong API endpoint.")
        elif asked.headers.get("authorization") != f"Bearer {KEY}":
            given = asked.headers.get("authorization", "").removeprefix("Bearer ")
            raise Refused(401, f"Incorrect API key provided: {given}. You can find your API key at ...")
        if path.endswith("/chat/completions"):
            return self._chat(asked.body)
        if path.endswith("/completions"):
            return self._text(asked.body)
        raise Refused(404, f"Invalid URL (POST {path})")

    def _checked(self, body: dict[str, Any], *fields: str) -> None:
        if self.limited:
            known(body, *_SAMPLING, *fields)
            if len(body.get("stop") or []) > 4:
                raise Refused(400, "Invalid 'stop': array too long. Expected an array with maximum length 4")
        if body.get("stream_options") and not body.get("stream"):
            raise Refused(400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        if len(body.get("logit_bias") or {}) > 300:
            raise Refused(400, "Too many logit_bias entries")

    def _chat(self, body: dict[str, Any]) -> tuple[bool, Any]:
        self._checked(
            body, "messages", "max_tokens", "max_completion_tokens", "top_logprobs", "response_format"
        )
        if self.thinks:
            for field in ("max_tokens", "stop", "temperature", "top_p"):
                if field in body:
                    raise Refused(400, f"Unsupported parameter: '{field}' is not supported with this model.")
        for message in body["messages"]:
            _check_message(message)
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        answers = [
            self.answer(body, stop=body.get("stop") or [], max_tokens=limit) for _ in range(body.get("n", 1))
        ]
        if body.get("stream"):
            return True, self._chat_events(body, answers)
        choices = []
        for index, answer in enumerate(answers):
            message = {"role": "assistant", "content": answer.text, "refusal": None}
            if self.refuses is not None:
                message |= {"content": None, "refusal": self.refuses}
            logprobs = _chat_logprobs(answer.pieces) if body.get("logprobs") else None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.reason}
            )
        return False, {**_head("chat.completion"), "choices": choices, "usage": _usage(answers)}

    def _chat_events(self, body: dict[str, Any], answers: list[Answer]) -> Iterator[tuple[None, Any, bool]]:
        def event(index: int, delta: Any, reason: str | None = None, logprobs: Any = None) -> Any:
            choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}
            return None, {**_head("chat.completion.chunk"), "choices": [choice]}, "content" in delta

        for index, answer in enumerate(answers):
            yield (*event(index, {"role": "assistant"})[:2], False)
            if self.refuses is not None:
                yield event(index, {"refusal": self.refuses})
            else:
                for piece in answer.pieces:
                    logprobs = _chat_logprobs([piece]) if body.get("logprobs") else None
                    yield event(index, {"content": piece}, None, logprobs)
            yield event(index, {}, answer.reason)
        if (body.get("stream_options") or {}).get("include_usage"):
            yield None, {**_head("chat.completion.chunk"), "choices": [], "usage": _usage(answers)}, False
        yield None, "[DONE]", False

    def _text(self, body: dict[str, Any]) -> tuple[bool, Any]:
        self._checked(body, "prompt", "max_tokens", "echo")
        prompts = body["prompt"]
        if isinstance(prompts, list) and prompts and isinstance(prompts[0], int):
            return False, self._step(body, prompts)
        if body.get("echo"):
            choices = [_echo(index, text, self.tokenizer) for index, text in enumerate(prompts)]
            return False, {**_head("text_completion"), "choices": choices, "usage": _usage([])}
        answers = [
            self.answer(body, stop=body.get("stop") or [], max_tokens=body.get("max_tokens", 16))
            for _ in range(body.get("n", 1))
        ]
        if body.get("stream"):
            return True, self._text_events(body, answers)
        choices = [
            {
                "index": index,
                "text": answer.text,
                "finish_reason": answer.reason,
                "logprobs": _text_logprobs(answer.pieces) if body.get("logprobs") is not None else None,
            }
            for index, answer in enumerate(answers)
        ]
        return False, {**_head("text_completion"), "choices": choices, "usage": _usage(answers)}

    def _text_events(self, body: dict[str, Any], answers: list[Answer]) -> Iterator[tuple[None, Any, bool]]:
        for index, answer in enumerate(answers):
            ends = [None] * len(answer.pieces) + [answer.reason]
            for piece, reason in zip([*answer.pieces, ""], ends, strict=True):
                choice = {"index": index, "text": piece, "finish_reason": reason, "logprobs": None}
                yield None, {**_head("text_completion"), "choices": [choice]}, reason is None
        if (body.get("stream_options") or {}).get("include_usage"):
            yield None, {**_head("text_completion"), "choices": [], "usage": _usage(answers)}, False
        yield None, "[DONE]", False

    def _step(self, body: dict[str, Any], tokens: list[int]) -> Any:
        """One token among those with a bias of 100, as a model with few choices would take it."""
        assert body["max_tokens"] == 1
        allowed = [int(token) for token, bias in body["logit_bias"].items() if bias == 100]
        token = self.prefers(tokens, allowed)
        ends = token == self.tokenizer.eot_token
        data = self.tokenizer.decode_single_token_bytes(token)
        try:
            text = spelled = data.decode()
        except UnicodeDecodeError:
            text, spelled = "�", "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
        listed = [] if ends else [spelled]
        logprobs = {"tokens": listed, "token_logprobs": [0.0] * len(listed), "top_logprobs": None}
        choice = {
            "index": 0,
            "text": "" if ends else text,
            "finish_reason": "stop" if ends else "length",
            "logprobs": {**logprobs, "text_offset": [0] * len(listed)},
        }
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}
        return {**_head("text_completion"), "choices": [choice], "usage": usage}

    # -- errors

    def error(self, status: int, message: str) -> Any:
        kind = {429: "requests", 401: "invalid_request_error", 400: "invalid_request_error"}
        return {"error": {"message": message, "type": kind.get(status, "server_error"), "code": None}}

    def error_event(self, status: int, message: str) -> tuple[str | None, Any]:
        return None, self.error(status, message)


def _check_message(message: dict[str, Any]) -> None:
    known(message, "role", "content", "name")
    if message["role"] not in ("system", "developer", "user", "assistant"):
        raise Refused(400, f"Invalid value: '{message['role']}'.")
    if isinstance(message["content"], list):
        for part in message["content"]:
            if part["type"] == "image_url":
                known(part, "type", "image_url")
                if not part["image_url"]["url"].startswith(("data:image/", "http")):
                    raise Refused(400, "Invalid image_url")
            elif part["type"] != "text":
                raise Refused(400, f"Invalid content type {part['type']}")


def _head(kind: str) -> dict[str, Any]:
    return {"id": "cmpl-1", "object": kind, "created": 1, "model": "a-model"}


def _usage(answers: list[Answer]) -> dict[str, Any]:
    completion = sum(len(answer.pieces) for answer in answers)
    prompt = 7
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": 2},
    }


def _chat_logprobs(pieces: list[str]) -> Any:
    alternative = {"token": "so", "logprob": -2.0, "bytes": [115, 111]}
    return {
        "content": [
            {"token": piece, "logprob": -0.5, "bytes": list(piece.encode()), "top_logprobs": [alternative]}
            for piece in pieces
        ],
        "refusal": None,
    }


def _text_logprobs(pieces: list[str]) -> Any:
    return {
        "tokens": pieces,
        "token_logprobs": [-0.5] * len(pieces),
        "top_logprobs": [{piece: -0.5, "so": -2.0} for piece in pieces],
        "text_offset": [0] * len(pieces),
    }


def _echo(index: int, text: str, tokenizer: tiktoken.Encoding) -> Any:
    """The text's words with the log-probability -(length / 10) each, and one generated token after them."""
    pieces = words(text)
    offsets = [sum(map(len, pieces[:place])) for place in range(len(pieces) + 1)]
    values: list[float | None] = [-len(piece) / 10 for piece in pieces]
    if values:
        values[0] = None
    logprobs = {
        "tokens": [*pieces, "!"],
        "token_logprobs": [*values, -1.0],
        "top_logprobs": None,
        "text_offset": offsets,
    }
    return {"index": index, "text": text + "!", "finish_reason": "length", "logprobs": logprobs}
