# SPDX-License-Identifier: Apache-2.0
"""`OpenAI`: chat and completion models of OpenAI, of Azure, and of every server with the same API.

OpenAI's own client talks; this file says in OpenAI's words what a program asks for. Chat models answer a
conversation; completion models continue any text, and score options: by log-probabilities where the server
echoes a prompt with them, else by walking through their tokens with `logit_bias`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import openai
from openai.types import Completion as TextResponse

from sgl_lang.backends._answer import Answer, Lost
from sgl_lang.backends._failure import Failure, answered, lost
from sgl_lang.backends._openai_shapes import (
    chat_fields_of,
    counts_of,
    fields_of,
    read,
    turns_of,
    words_of,
)
from sgl_lang.backends._options import Tokenizer, digits, echoed, tokenizer_of, walked
from sgl_lang.backends._stops import divide
from sgl_lang.backends._url import check_url
from sgl_lang.backends._vendor import Ask, Vendor
from sgl_lang.backends.protocol import Capabilities, Completion, Prompt, Scores
from sgl_lang.chat import ChatTemplate, guess_template, named_template
from sgl_lang.errors import BackendError, ProgramError, UnsupportedByBackend
from sgl_lang.sampling import SamplingParams
from sgl_lang.usage import Usage

_COMPLETION_MODELS = ("gpt-3.5-turbo-instruct", "davinci-002", "babbage-002")
_NO_ECHO = ("gpt-3.5-turbo-instruct",)  # refuses an echo with log-probabilities
_THINKS = re.compile(r"o\d|gpt-5|codex")  # models that take no stop strings, and no max_tokens
_MOST_STOPS = 4

_BOTH = {
    *("max_new_tokens", "n", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "seed", "return_logprob", "top_logprobs_num", "return_text_in_logprobs"),
}
_ELSEWHERE = "pass it as OpenAI(..., extra_body={...}) if the server knows it, or run on RuntimeEndpoint"
_REMEDIES = {
    "regex": "use json_schema, choices, or words in the prompt and a check, or run on RuntimeEndpoint",
    "ebnf": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "stop_regex": "use stop, or run on RuntimeEndpoint",
    "stop_token_ids": "use stop with the tokens' text",
    "logprob_start_len": "log-probabilities of a prompt are told by RuntimeEndpoint only",
    **dict.fromkeys(("top_k", "min_p", "repetition_penalty", "min_new_tokens", "ignore_eos"), _ELSEWHERE),
}


class OpenAI(Vendor):
    """A backend on OpenAI's API, Azure's, or that of a compatible server.

    Args:
        model_name: the model; on Azure, the deployment.
        is_chat_model: whether it answers conversations; by default all but OpenAI's three completion models.
        chat_template: markup for roles on a completion model: a name or a `ChatTemplate`; the default is
            guessed from the model's name. A chat model has its own; then it only shapes `state.text()`.
        is_azure: `azure_endpoint`, `api_version` and `api_key` (or the environment's `AZURE_OPENAI_...`) say
            where.
        base_url: a compatible server, such as "http://localhost:30000/v1".
        api_key: the default is the environment's `OPENAI_API_KEY`.
        timeout: seconds to wait for a connection, and for each further piece of an answer.
        max_retries: how often a call is repeated that met 429, 5xx, a timeout or no connection.
        max_wait: the longest pause before that, in seconds, if the server asks for one.
        max_tokens_name: what the chat endpoint calls its limit; the default is "max_completion_tokens" for
            OpenAI and for models known to demand it, else "max_tokens".
        tokenizer: of a completion model, a `tiktoken.Encoding`; the default is tiktoken's for it. `dtype=int`
            needs it, and options on a server that does not echo log-probabilities.
        extra_body: further fields of every request, as the server spells them.
        client_options: passed to `openai.AsyncOpenAI`: `organization`, `default_headers`, `http_client`, ...

    Raises ProgramError for options that cannot be right, and without a key. No request is made here.
    """

    def __init__(
        self,
        model_name: str,
        is_chat_model: bool | None = None,
        chat_template: str | ChatTemplate | None = None,
        is_azure: bool = False,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        max_wait: float = 60.0,
        max_tokens_name: str | None = None,
        tokenizer: Tokenizer | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **client_options: Any,
    ) -> None:
        self.model_name = model_name
        self._chat = model_name not in _COMPLETION_MODELS if is_chat_model is None else is_chat_model
        self._thinks = self._chat and _THINKS.match(model_name) is not None
        options = {"base_url": base_url, "api_key": api_key, "timeout": timeout, **client_options}
        self._client = _client(is_azure, options)
        self._elsewhere = is_azure or self._client.base_url.host != "api.openai.com"
        limit = "max_completion_tokens" if self._thinks or not self._elsewhere else "max_tokens"
        self._limit = (max_tokens_name or limit) if self._chat else "max_tokens"
        self._tokenizer = tokenizer
        self._extra = {} if extra_body is None else {"extra_body": dict(extra_body)}
        if isinstance(chat_template, str):
            chat_template = named_template(chat_template)
        if chat_template is None:
            chat_template = named_template("default") if self._chat else guess_template(model_name)
        super().__init__(
            "OpenAI",
            capabilities=self._able(),
            chat_template=chat_template,
            errors=(openai.OpenAIError,),
            goodbye=self._client.close,
            secrets=(self._client.api_key,),
            max_retries=max_retries,
            max_wait=max_wait,
        )

    def _able(self) -> Capabilities:
        if self._chat:
            return Capabilities(
                shape="chat",
                continues_turns=False,
                parameters=frozenset({*_BOTH, "json_schema"}),
                remedies={
                    **_REMEDIES,
                    "dtype": "use json_schema, or ask for it in words and convert the answer",
                },
                videos=False,
                scores=None,
                prefix_cache=False,
            )
        walks = self._tokenizer is not None or self.model_name in _NO_ECHO
        return Capabilities(
            parameters=frozenset({*_BOTH, "dtype"}),
            remedies={**_REMEDIES, "json_schema": "use a chat model, or run on RuntimeEndpoint"},
            images=False,
            videos=False,
            scores="walk" if walks else "logprobs",
            prefix_cache=False,
        )

    # -- generation

    def generate(self, prompt: Prompt, params: SamplingParams) -> Completion:
        if params.dtype is None:
            return super().generate(prompt, params)
        prompt, params, finish = self._typed(prompt, params)
        completion = super().generate(prompt, params)
        others = tuple(replace(other, text=finish(other.text)) for other in completion.others)
        return replace(completion, text=finish(completion.text), others=others)

    def stream(self, prompt: Prompt, params: SamplingParams) -> Generator[Completion, None, None]:
        if params.dtype is None:
            yield from super().stream(prompt, params)
        else:
            yield self.generate(prompt, params)

    def _typed(
        self, prompt: Prompt, params: SamplingParams
    ) -> tuple[Prompt, SamplingParams, Callable[[str], str]]:
        """How a value of a type is asked for, and made of the text that comes."""
        stop = params.stop or ()
        match params.dtype:
            case "str":
                quoted = replace(prompt, text=prompt.text + '"')
                return quoted, replace(params, dtype=None, stop=(*stop, '"')), lambda text: f'"{text}"'
            case "int":
                bias = {**digits(self._tokens()), **(params.logit_bias or {})}
                return prompt, replace(params, dtype=None, stop=(*stop, " ", "\n"), logit_bias=bias), _int
        raise UnsupportedByBackend(
            f"OpenAI generates dtype int and str, not {params.dtype}; use choices or run on RuntimeEndpoint"
        )

    def _ask(self, prompt: Prompt, params: SamplingParams) -> Ask:
        fields = chat_fields_of(params) if self._chat else fields_of(params)
        if self._thinks and params.temperature == 1.0:
            del fields["temperature"]  # the only one there is, and not to be said
        if self._elsewhere and params.top_p is not None:
            fields["top_p"] = params.top_p  # a server may have a default of its own
        if params.max_new_tokens is not None:
            fields[self._limit] = params.max_new_tokens
        sent, here = divide(params.stop or (), most=0 if self._thinks else _MOST_STOPS)
        if sent:
            fields["stop"] = list(sent)
        if self._chat:
            return Ask({"messages": turns_of(prompt), **fields}, here)
        if params.return_logprob:
            fields["logprobs"] = params.top_logprobs_num or 0
        return Ask({"prompt": prompt.text, **fields}, here)

    async def _create(self, **fields: Any) -> Any:
        endpoint: Any = self._client.chat.completions if self._chat else self._client.completions
        return await endpoint.create(model=self.model_name, **fields, **self._extra)

    async def _whole(self, ask: Ask, answer: Answer) -> None:
        read(await self._create(**ask.fields), answer)

    async def _pieces(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        stream = await self._create(**ask.fields, stream=True, stream_options={"include_usage": True})
        if not isinstance(stream, openai.AsyncStream):
            raise Lost(f"does not stream in OpenAI's format: {stream!r:.200}")
        async with stream:
            async for chunk in stream:
                read(chunk, answer)
                yield

    # -- options

    def score(self, prompt: Prompt, options: Sequence[str], *, unconditional: bool = False) -> Scores:
        usage = Usage()

        def call(**fields: Any) -> Any:
            nonlocal usage
            response = self._call(prompt.rid, **fields)
            usage = usage.plus(counts_of(response))
            return response

        match self.capabilities.scores:
            case "logprobs":
                scored = echoed(call, prompt.text, options, unconditional=unconditional)
                return Scores(scored, usage._asdict())
            case "walk":
                scored = walked(call, self._tokens(), prompt.text, options)
                return Scores(scored, usage._asdict())
        raise UnsupportedByBackend(
            f"{self.model_name!r} is a chat model and scores no options; use a completion model "
            "(is_chat_model=False), or run on RuntimeEndpoint"
        )

    def _call(self, rid: str, **fields: Any) -> Any:
        """One request of the completions endpoint that is no generation; its response."""

        async def call() -> Any:
            response = await self._create(**fields)
            if not isinstance(response, TextResponse):
                raise Lost(f"does not answer in OpenAI's format: {response!r:.200}")
            return response

        response = self._calls.whole(rid, call)
        self._count(counts_of(response))
        return response

    def _tokens(self) -> Tokenizer:
        if self._tokenizer is None:
            self._tokenizer = tokenizer_of(self.model_name)
        return self._tokenizer

    # -- the client

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, openai.APIStatusError):
            said = words_of(error.body, error.message)
            failure = answered(error.status_code, said, error.response.headers)
            return replace(failure, again=failure.again and error.code != "insufficient_quota")
        if isinstance(error, openai.APIConnectionError):
            return lost(error)
        passing = isinstance(error, openai.APIError) and error.type != "invalid_request_error"
        return Failure(f"failed: {error}", again=passing)


def _client(is_azure: bool, options: Mapping[str, Any]) -> openai.AsyncOpenAI:
    """The client; repeating calls is not its business but ours."""
    check_url(options.get("base_url"))
    check_url(options.get("azure_endpoint"))
    said = {name: value for name, value in options.items() if value is not None}
    try:
        return (openai.AsyncAzureOpenAI if is_azure else openai.AsyncOpenAI)(max_retries=0, **said)
    except (openai.OpenAIError, TypeError, ValueError) as error:
        raise ProgramError(f"OpenAI(): {error}") from None


def _int(text: str) -> str:
    number = re.match(r"\s*([-+]?[0-9]+)", text)
    if number is None:
        raise BackendError(f"OpenAI: the model said {text!r} where an int was asked for")
    return number[1]
