# SPDX-License-Identifier: Apache-2.0
"""`VertexAI`: Gemini on Google Cloud, or on the Gemini Developer API.

Google's google-genai talks. The generative module of google-cloud-aiplatform, which did so before, is
deprecated since June 2025 and gone from it since June 2026:
https://cloud.google.com/vertex-ai/generative-ai/docs/deprecations/genai-vertexai-sdk
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import google.auth.exceptions
from google import genai
from google.genai import errors, types

from sgl_lang.backends._answer import Answer, Refusal
from sgl_lang.backends._failure import Failure, answered, lost
from sgl_lang.backends._stops import divide
from sgl_lang.backends._url import check_url
from sgl_lang.backends._vendor import Ask, Vendor
from sgl_lang.backends.protocol import Capabilities, Prompt
from sgl_lang.chat import named_template
from sgl_lang.errors import ProgramError, UnsupportedByBackend
from sgl_lang.media import Image, Media
from sgl_lang.sampling import SamplingParams
from sgl_lang.transcript import Message

_MOST_STOPS = 5

# Names of SamplingParams and Gemini's.
_NAMES = {
    "max_new_tokens": "max_output_tokens",
    "n": "candidate_count",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "return_logprob": "response_logprobs",
    "top_logprobs_num": "logprobs",
}
_REMEDIES = {
    "regex": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "dtype": "use json_schema, or words in the prompt and a conversion, or run on RuntimeEndpoint",
    "ebnf": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "stop_regex": "use stop, or run on RuntimeEndpoint",
    "stop_token_ids": "use stop with the tokens' text",
    "logprob_start_len": "log-probabilities of a prompt are told by RuntimeEndpoint only",
}
_REASONS = {"STOP": "stop", "MAX_TOKENS": "length"}  # others keep their names, in lower case


class VertexAI(Vendor):
    """A backend on Gemini.

    Args:
        model_name: the model, such as "gemini-2.5-flash".
        safety_settings: what is to be blocked: `google.genai.types.SafetySetting`s, or dicts of their fields.
        project, location: on Google Cloud; the default is the environment's `GOOGLE_CLOUD_PROJECT` and
            `GOOGLE_CLOUD_LOCATION`.
        credentials: of google.auth; the default is what google.auth finds.
        api_key: in place of project and credentials.
        vertexai: False for the Gemini Developer API, with an `api_key`.
        base_url: where the API is, if not at Google's.
        timeout: seconds to wait for an answer, or for each further piece of it.
        max_retries: how often a call is repeated that met 429, 5xx, a timeout or no connection.
        max_wait: the longest pause before that, in seconds, if the server asks for one.
        config: further fields of every request's `google.genai.types.GenerateContentConfig`.
        http_options: further fields of `google.genai.types.HttpOptions`.

    Raises ProgramError for options that cannot be right, and without a project or key.
    """

    def __init__(
        self,
        model_name: str,
        safety_settings: Sequence[types.SafetySetting | Mapping[str, Any]] | None = None,
        *,
        project: str | None = None,
        location: str | None = None,
        credentials: google.auth.credentials.Credentials | None = None,
        api_key: str | None = None,
        vertexai: bool = True,
        base_url: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        max_wait: float = 60.0,
        config: Mapping[str, Any] | None = None,
        http_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_url(base_url)
        self.model_name = model_name
        self._config = dict(config or {})
        if safety_settings is not None:
            self._config["safety_settings"] = list(safety_settings)
        options = {
            "base_url": base_url,
            "timeout": round(timeout * 1000),
            "retry_options": {"attempts": 1},  # repeating calls is not the client's business but ours
            **(http_options or {}),
        }
        try:
            self._client = genai.Client(
                vertexai=vertexai,
                api_key=api_key,
                credentials=credentials,
                project=project,
                location=location,
                http_options=types.HttpOptions.model_validate(options),
            )
            types.GenerateContentConfig.model_validate(self._config)
        except (ValueError, google.auth.exceptions.GoogleAuthError) as error:
            raise ProgramError(f"VertexAI(): {error}") from None
        super().__init__(
            "VertexAI",
            capabilities=Capabilities(
                shape="chat",
                continues_turns=False,
                parameters=frozenset({*_NAMES, "stop", "json_schema", "return_text_in_logprobs"}),
                remedies=_REMEDIES,
                videos=False,
                scores=None,
                prefix_cache=False,
            ),
            chat_template=named_template("default"),
            errors=(errors.APIError, errors.UnknownApiResponseError, google.auth.exceptions.GoogleAuthError),
            goodbye=self._client.aio.aclose,
            secrets=(api_key,) if api_key else (),
            max_retries=max_retries,
            max_wait=max_wait,
        )

    def _ask(self, prompt: Prompt, params: SamplingParams) -> Ask:
        turns = list(prompt.messages)
        if turns and turns[-1] == ("assistant", ""):
            turns.pop()
        config: dict[str, Any] = {"automatic_function_calling": {"disable": True}, **self._config}
        system: list[types.Part] = []
        while turns and turns[0].role == "system":
            system += _parts(turns.pop(0))
        if system:
            config["system_instruction"] = system
        if any(turn.role == "system" for turn in turns):
            raise UnsupportedByBackend(
                "Gemini hears the system at the beginning only; say it there, or in a turn of the user"
            )
        config |= {_NAMES[name]: value for name, value in params.asked().items() if name in _NAMES}
        if params.top_p is not None:
            config["top_p"] = params.top_p  # Gemini's own default is not 1
        sent, here = divide(params.stop or (), most=_MOST_STOPS)
        if sent:
            config["stop_sequences"] = list(sent)
        if params.json_schema is not None:
            config["response_mime_type"] = "application/json"
            config["response_json_schema"] = json.loads(params.json_schema)
        contents = [
            types.Content(role="model" if turn.role == "assistant" else "user", parts=_parts(turn))
            for turn in turns
        ]
        return Ask({"model": self.model_name, "contents": contents, "config": config}, here)

    async def _whole(self, ask: Ask, answer: Answer) -> None:
        _read(await self._client.aio.models.generate_content(**ask.fields), answer)

    async def _pieces(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        async for response in await self._client.aio.models.generate_content_stream(**ask.fields):
            _read(response, answer)
            yield

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, errors.APIError):
            headers = getattr(error.response, "headers", None) or {}
            failure = answered(error.code or 500, str(error.message or error), headers)
            return (
                failure if failure.after is not None else replace(failure, after=_retry_delay(error.details))
            )
        if isinstance(error, google.auth.exceptions.TransportError):
            return lost(error)
        return Failure(f"failed: {error}")


def _parts(turn: Message) -> list[types.Part]:
    pieces = (turn.content,) if isinstance(turn.content, str) else turn.content
    return [types.Part(text=piece) if isinstance(piece, str) else _image(piece) for piece in pieces]


def _image(media: Media) -> types.Part:
    assert isinstance(media, Image), "capabilities.videos is False"
    if media.url is not None:
        return types.Part(file_data=types.FileData(file_uri=media.url, mime_type=media.mime))
    return types.Part(inline_data=types.Blob(data=media.data, mime_type=media.mime))


def _read(response: types.GenerateContentResponse, answer: Answer) -> None:
    """Put a response, or one of a stream, into `answer`. Raises Refusal when the prompt was blocked."""
    if response.prompt_feedback is not None and response.prompt_feedback.block_reason is not None:
        reason = response.prompt_feedback.block_reason.value.lower()
        raise Refusal(
            f"blocked the prompt ({reason}): {response.prompt_feedback.block_reason_message or reason}"
        )
    for candidate in response.candidates or ():
        sample = candidate.index or 0
        for part in (candidate.content and candidate.content.parts) or ():
            if part.text and not part.thought:
                answer.say(part.text, sample)
        if candidate.logprobs_result is not None:
            _read_logprobs(candidate.logprobs_result, answer, sample)
        if candidate.finish_reason is not None:
            name = candidate.finish_reason.value
            if name not in _REASONS:
                answer.refuse(f"{name.lower()} {candidate.finish_message or ''}".strip(), sample)
            answer.end(_REASONS.get(name, name.lower()), sample)
    if (usage := response.usage_metadata) is not None:
        answer.count(
            prompt_tokens=usage.prompt_token_count,
            cached_tokens=usage.cached_content_token_count,
            completion_tokens=(usage.candidates_token_count or 0) + (usage.thoughts_token_count or 0),
        )


def _read_logprobs(result: types.LogprobsResult, answer: Answer, sample: int) -> None:
    def row(token: types.LogprobsResultCandidate) -> list[Any]:
        return [token.log_probability, token.token_id, token.token]

    answer.log("output_token_logprobs", [row(token) for token in result.chosen_candidates or ()], sample)
    top = [[row(token) for token in step.candidates or ()] for step in result.top_candidates or ()]
    if any(top):
        answer.log("output_top_logprobs", top, sample)


def _retry_delay(details: Any) -> float | None:
    """Seconds to wait, as a google.rpc.RetryInfo among an error's details says: "32s"."""
    inner = details.get("error", details) if isinstance(details, Mapping) else None
    listed = inner.get("details") if isinstance(inner, Mapping) else None
    for detail in listed if isinstance(listed, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith("google.rpc.RetryInfo"):
            seconds = re.fullmatch(r"(\d+(\.\d+)?)s", str(detail.get("retryDelay")))
            return float(seconds[1]) if seconds else None
    return None
