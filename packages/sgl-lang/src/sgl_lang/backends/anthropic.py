# SPDX-License-Identifier: Apache-2.0
"""`Anthropic`: Claude on Anthropic's Messages API.

Anthropic's own client talks; this file says in its words what a program asks for. What the API takes depends
on the model, and on the version of the API that a request names: the newest has no sampling parameters, so a
request that sets one names the version before. Which model takes what, the API knows best, and says.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anthropic

from sgl_lang.backends._answer import Answer, Lost
from sgl_lang.backends._failure import Failure, answered, lost
from sgl_lang.backends._schema import closed
from sgl_lang.backends._stops import divide
from sgl_lang.backends._url import check_url
from sgl_lang.backends._vendor import Ask, Vendor
from sgl_lang.backends.protocol import Capabilities, Prompt
from sgl_lang.chat import named_template
from sgl_lang.errors import ProgramError
from sgl_lang.media import Image, Media
from sgl_lang.sampling import SamplingParams
from sgl_lang.transcript import Message

_SAMPLING = ("temperature", "top_p", "top_k")
_SAMPLING_VERSION = {"anthropic-version": "2023-06-01"}  # the last one that knows them
_MAX_TOKENS = 4096  # the API has no default

_REMEDIES = {
    "n": "run the program several times, or fork(n)",
    "regex": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "dtype": "use json_schema, or words in the prompt and a conversion, or run on RuntimeEndpoint",
    "ebnf": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "stop_regex": "use stop, or run on RuntimeEndpoint",
    "stop_token_ids": "use stop with the tokens' text",
    "seed": "Claude cannot be made to repeat itself",
    "return_logprob": "Anthropic tells no log-probabilities; run on RuntimeEndpoint, or on OpenAI",
}

# What ended a message, by https://platform.claude.com/docs/en/api/messages. Other reasons keep their names.
_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
# An error in the middle of a stream has no status of its own. https://platform.claude.com/docs/en/api/errors
_STATUS = {"rate_limit_error": 429, "api_error": 500, "timeout_error": 504, "overloaded_error": 529}


class Anthropic(Vendor):
    """A backend on Anthropic's API.

    Args:
        model_name: the model, such as "claude-sonnet-4-5".
        base_url: where the API is, if not at Anthropic's.
        api_key: the default is the environment's `ANTHROPIC_API_KEY`.
        timeout: seconds to wait for a connection, and for each further piece of an answer.
        max_retries: how often a call is repeated that met 429, 5xx, a timeout or no connection.
        max_wait: the longest pause before that, in seconds, if the server asks for one.
        extra_body: further fields of every request, such as {"thinking": {"type": "adaptive"}}.
        client_options: passed to `anthropic.AsyncAnthropic`: `auth_token`, `http_client`, ...

    Raises ProgramError for options that cannot be right, and without a key. No request is made here.
    """

    def __init__(
        self,
        model_name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        max_wait: float = 60.0,
        extra_body: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        self.model_name = model_name
        self._extra = dict(extra_body or {})
        options = {"base_url": base_url, "api_key": api_key, "timeout": timeout, **client_options}
        self._client = _client(options)
        super().__init__(
            "Anthropic",
            capabilities=Capabilities(
                shape="chat",
                parameters=frozenset({"max_new_tokens", "stop", "json_schema", *_SAMPLING}),
                remedies=_REMEDIES,
                videos=False,
                scores=None,
                prefix_cache=False,
            ),
            chat_template=named_template("claude"),
            errors=(anthropic.AnthropicError,),
            goodbye=self._client.close,
            secrets=tuple(key for key in (self._client.api_key, self._client.auth_token) if key),
            max_retries=max_retries,
            max_wait=max_wait,
        )

    def _ask(self, prompt: Prompt, params: SamplingParams) -> Ask:
        system, messages, lead = _conversation(prompt.messages)
        fields: dict[str, Any] = {
            "model": self.model_name,
            "max_tokens": _MAX_TOKENS if params.max_new_tokens is None else params.max_new_tokens,
            "messages": messages,
        }
        if system:
            fields["system"] = system
        sent, here = divide(params.stop or (), takes=lambda stop: bool(stop.strip()))
        if sent:
            fields["stop_sequences"] = list(sent)
        beside = dict(self._extra)
        if params.json_schema is not None:
            schema = closed(json.loads(params.json_schema), all_required=False)
            form = {"type": "json_schema", "schema": schema}
            beside["output_config"] = {**beside.get("output_config", {}), "format": form}
        sampling = {name: value for name, value in params.asked().items() if name in _SAMPLING}
        if sampling.get("temperature") == 1.0:
            del sampling["temperature"]  # so it is anyway, and the newest models want nothing said
        if sampling:
            fields["extra_headers"] = _SAMPLING_VERSION
        # Beside the client's own parameters: not every version of it knows these.
        if beside or sampling:
            fields["extra_body"] = {**beside, **sampling}
        return Ask(fields, here, lead)

    async def _whole(self, ask: Ask, answer: Answer) -> None:
        message = await self._client.messages.create(**ask.fields)
        if not isinstance(message, anthropic.types.Message) or message.content is None:
            raise Lost(f"does not answer in Anthropic's format: {message!r:.200}")
        for block in message.content:
            if block.type == "text":
                answer.say(block.text)
        _end(message, answer)
        _count_prompt(message.usage, answer)
        answer.count(completion_tokens=getattr(message.usage, "output_tokens", None))

    async def _pieces(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        stream = await self._client.messages.create(**ask.fields, stream=True)
        async with stream:
            async for event in stream:
                match event.type:
                    case "message_start":
                        _count_prompt(event.message.usage, answer)
                    case "content_block_delta" if event.delta.type == "text_delta":
                        answer.say(event.delta.text)
                    case "message_delta":
                        _end(event.delta, answer)
                        _count_prompt(event.usage, answer)
                        answer.count(completion_tokens=event.usage.output_tokens)
                yield

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, anthropic.APIConnectionError):
            return lost(error)
        if isinstance(error, anthropic.APIStatusError):
            kind, said = _words(error)
            status = error.status_code if error.status_code >= 400 else _STATUS.get(kind, 500)
            return answered(status, said, error.response.headers)
        return Failure(f"failed: {error}")


def _client(options: Mapping[str, Any]) -> anthropic.AsyncAnthropic:
    """The client; repeating calls is not its business but ours."""
    check_url(options["base_url"])
    said = {name: value for name, value in options.items() if value is not None}
    try:
        client = anthropic.AsyncAnthropic(max_retries=0, **said)
    except (anthropic.AnthropicError, TypeError, ValueError) as error:
        raise ProgramError(f"Anthropic(): {error}") from None
    known = (
        client.api_key,
        client.auth_token,
        getattr(client, "credentials", None),
        options.get("default_headers"),
    )
    if not any(known):
        raise ProgramError("Anthropic() needs a key: pass api_key=..., or set ANTHROPIC_API_KEY")
    return client


def _conversation(turns: tuple[Message, ...]) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """The system's first words, the messages after them, and the blanks at the end of a turn that has begun.

    The API refuses a conversation that ends with blanks, so they are kept back.
    """
    rest = list(turns)
    system: list[dict[str, Any]] = []
    while rest and rest[0].role == "system":
        system += _blocks(rest.pop(0))
    lead = ""
    if rest and rest[-1].role == "assistant" and isinstance(rest[-1].content, str):
        begun = rest.pop().content
        assert isinstance(begun, str)
        lead = begun[len(begun.rstrip()) :]
        if begun.strip():
            rest.append(Message("assistant", begun.rstrip()))
    return system, [{"role": turn.role, "content": _blocks(turn)} for turn in rest], lead


def _blocks(turn: Message) -> list[dict[str, Any]]:
    pieces = (turn.content,) if isinstance(turn.content, str) else turn.content
    return [{"type": "text", "text": piece} if isinstance(piece, str) else _image(piece) for piece in pieces]


def _image(media: Media) -> dict[str, Any]:
    assert isinstance(media, Image), "capabilities.videos is False"
    if media.url is not None:
        return {"type": "image", "source": {"type": "url", "url": media.url}}
    source = {"type": "base64", "media_type": media.mime, "data": media.base64}
    return {"type": "image", "source": source}


def _end(message: Any, answer: Answer) -> None:
    """Why a message, or the last event of one, says that it is over."""
    if message.stop_reason is None:
        return
    if message.stop_reason == "refusal":
        answer.refuse("the model declined to answer")
    matched = {"matched": message.stop_sequence} if message.stop_sequence is not None else {}
    answer.end(_REASONS.get(message.stop_reason, message.stop_reason), **matched)


def _count_prompt(usage: Any, answer: Answer) -> None:
    """Anthropic counts apart what was read from its cache and what was written to it."""
    fresh = getattr(usage, "input_tokens", None)  # the end of a stream may repeat it, or not
    if fresh is not None:
        cached = getattr(usage, "cache_read_input_tokens", None) or 0
        written = getattr(usage, "cache_creation_input_tokens", None) or 0
        answer.count(prompt_tokens=fresh + cached + written, cached_tokens=cached)


def _words(error: anthropic.APIStatusError) -> tuple[str, str]:
    """The type and the sentence of an error."""
    inner = error.body.get("error") if isinstance(error.body, Mapping) else None
    if isinstance(inner, Mapping):
        return str(inner.get("type")), str(inner.get("message"))
    return "", error.message
