# SPDX-License-Identifier: Apache-2.0
"""`GeminiWire`: generateContent and streamGenerateContent of Vertex AI and of the Gemini Developer API.

Formats: the types of the official client, and https://cloud.google.com/vertex-ai/docs/reference/rest.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

from wire import Answer, Asked, Refused, Wire, known

TOKEN = "ya29.test-token-0123456789"
KEY = "AIzaTest0123456789012345678901234567890"
_VERTEX = r"/v1beta1/projects/a-project/locations/a-place/publishers/google/models/([\w.-]+):(\w+)"
_BY_KEY = r"/v1(?:beta)?/models/([\w.-]+):(\w+)|/v1beta1/publishers/google/models/([\w.-]+):(\w+)"
_STATUS = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}
_CONFIG = (
    *("maxOutputTokens", "candidateCount", "temperature", "topP", "topK", "frequencyPenalty", "seed"),
    *("presencePenalty", "stopSequences", "responseMimeType", "responseJsonSchema", "responseLogprobs"),
    *("logprobs", "thinkingConfig"),
)
_REASONS = {"stop": "STOP", "length": "MAX_TOKENS"}


class GeminiWire(Wire):
    """Attributes:
    blocks: the reason for which prompts are blocked, in place of an answer.
    delay: what errors ask to wait, as their RetryInfo says it: "1s".
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks: str | None = None
        self.delay: str | None = None

    def reply(self, asked: Asked) -> tuple[bool, Any]:
        path, _, query = asked.path.partition("?")
        found = re.fullmatch(_VERTEX, path)
        if found is not None and asked.headers.get("authorization") != f"Bearer {TOKEN}":
            raise Refused(401, "Request had invalid authentication credentials.")
        if found is None:
            found = re.fullmatch(_BY_KEY, path)
            if found is not None and asked.headers.get("x-goog-api-key") != KEY:
                raise Refused(400, "API key not valid. Please pass a valid API key.")
        method = None if found is None else found[found.lastindex or 0]
        if method not in ("generateContent", "streamGenerateContent"):
            raise Refused(404, f"Not Found: {path}")
        body = asked.body
        known(body, "contents", "systemInstruction", "generationConfig", "safetySettings")
        config = body.get("generationConfig") or {}
        known(config, *_CONFIG)
        if len(config.get("stopSequences") or []) > 5:
            raise Refused(400, "The number of stop sequences must be at most 5")
        for content in body["contents"]:
            if content["role"] not in ("user", "model"):
                raise Refused(400, "Please use a valid role: user, model.")
            for part in content["parts"]:
                if "inlineData" in part:
                    base64.b64decode(part["inlineData"]["data"], validate=True)
        if body["contents"][-1]["role"] != "user":
            raise Refused(400, "Please ensure that multiturn requests end with a user role")
        answers = [
            self.answer(
                body, stop=config.get("stopSequences") or [], max_tokens=config.get("maxOutputTokens")
            )
            for _ in range(config.get("candidateCount", 1))
        ]
        if method == "generateContent":
            return False, self._response(answers, logprobs=config.get("responseLogprobs", False))
        assert "alt=sse" in query
        return True, self._events(answers)

    def _response(self, answers: list[Answer], *, logprobs: bool = False) -> Any:
        usage = {"promptTokenCount": 7, "cachedContentTokenCount": 2, "thoughtsTokenCount": 3}
        usage["candidatesTokenCount"] = sum(len(answer.pieces) for answer in answers)
        head = {"usageMetadata": usage, "modelVersion": "gemini", "responseId": "r"}
        if self.blocks is not None:
            return {**head, "promptFeedback": {"blockReason": self.blocks}}
        candidates = []
        for index, answer in enumerate(answers):
            candidate: dict[str, Any] = {"index": index, "finishReason": _reason(answer)}
            if answer.pieces:
                parts = [{"text": "let me see", "thought": True}, {"text": answer.text}]
                candidate["content"] = {"role": "model", "parts": parts}
            if logprobs:
                candidate["logprobsResult"] = _logprobs(answer.pieces)
            candidates.append(candidate)
        return {**head, "candidates": candidates}

    def _events(self, answers: list[Answer]) -> Iterator[tuple[str | None, Any, bool]]:
        if self.blocks is not None:
            yield None, self._response([]), False
            return
        for index, answer in enumerate(answers):
            for piece in answer.pieces:
                content = {"role": "model", "parts": [{"text": piece}]}
                yield None, {"candidates": [{"index": index, "content": content}]}, True
            last = self._response([Answer([], answer.reason)])
            last["candidates"][0]["index"] = index
            last["usageMetadata"]["candidatesTokenCount"] = sum(len(each.pieces) for each in answers)
            yield None, last, False

    def error(self, status: int, message: str) -> Any:
        error: dict[str, Any] = {
            "code": status,
            "message": message,
            "status": _STATUS.get(status, "INTERNAL"),
        }
        if self.delay is not None:
            error["details"] = [
                {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": self.delay}
            ]
        return {"error": error}

    def error_event(self, status: int, message: str) -> tuple[str | None, Any]:
        return None, self.error(status, message)


def _reason(answer: Answer) -> str:
    return _REASONS.get(answer.reason, answer.reason)


def _logprobs(pieces: list[str]) -> Any:
    chosen = [{"token": piece, "tokenId": 100 + i, "logProbability": -0.5} for i, piece in enumerate(pieces)]
    return {"chosenCandidates": chosen, "topCandidates": [{"candidates": [each]} for each in chosen]}
