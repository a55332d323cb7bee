# SPDX-License-Identifier: Apache-2.0
"""`LiteLLM`: any of the providers that the litellm package knows, through its one function.

litellm translates OpenAI's format into each provider's. What a provider cannot do, litellm refuses before it
asks; what it would leave out silently, blank stop strings, is done here. litellm is large, and while it is
imported it asks the network for a list of prices (not with LITELLM_LOCAL_MODEL_COST_MAP=True).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import litellm
import openai  # litellm's errors are subclasses of openai's

from sgl_lang.backends._answer import Answer
from sgl_lang.backends._failure import Failure, answered, lost
from sgl_lang.backends._openai_shapes import chat_fields_of, read, turns_of
from sgl_lang.backends._stops import divide
from sgl_lang.backends._url import check_url
from sgl_lang.backends._vendor import Ask, Vendor
from sgl_lang.backends.protocol import Capabilities, Prompt
from sgl_lang.chat import ChatTemplate, named_template
from sgl_lang.sampling import SamplingParams

_MOST_STOPS = 4  # OpenAI's limit, which litellm's format has
_PARAMETERS = {
    *("max_new_tokens", "n", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"),
    *("logit_bias", "json_schema", "return_logprob", "top_logprobs_num", "return_text_in_logprobs"),
}
_ELSEWHERE = "pass it as LiteLLM(..., extra_body={...}) if the provider knows it, or run on RuntimeEndpoint"
_REMEDIES = {
    "regex": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "dtype": "use json_schema, or words in the prompt and a conversion, or run on RuntimeEndpoint",
    "ebnf": "use json_schema, or words in the prompt and a check, or run on RuntimeEndpoint",
    "stop_regex": "use stop, or run on RuntimeEndpoint",
    "stop_token_ids": "use stop with the tokens' text",
    **dict.fromkeys(("top_k", "min_p", "repetition_penalty", "min_new_tokens", "ignore_eos"), _ELSEWHERE),
}


class LiteLLM(Vendor):
    """A backend on any provider that litellm knows.

    Args:
        model_name: provider and model as litellm spells them, such as "mistral/mistral-small-latest".
        chat_template: shapes `state.text()`: a name or a `ChatTemplate`.
        api_key: the default is the environment's, under the provider's name for it.
        organization, base_url, default_headers: as the provider needs them.
        timeout: seconds to wait for an answer, or for each further piece of it.
        max_retries: how often a call is repeated that met 429, 5xx, a timeout or no connection.
        max_wait: the longest pause before that, in seconds, if the provider asks for one.
        options: passed to every `litellm.acompletion`, `extra_body` among them.
    """

    def __init__(
        self,
        model_name: str,
        chat_template: str | ChatTemplate | None = None,
        api_key: str | None = None,
        organization: str | None = None,
        base_url: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 5,
        default_headers: Mapping[str, str] | None = None,
        *,
        max_wait: float = 60.0,
        **options: Any,
    ) -> None:
        check_url(base_url)
        self.model_name = model_name
        given = {
            "api_key": api_key,
            "organization": organization,
            "base_url": base_url,
            "extra_headers": None if default_headers is None else dict(default_headers),
        }
        said = {name: value for name, value in given.items() if value is not None}
        # Repeating calls is not litellm's business but ours.
        self._options = {"timeout": timeout, "max_retries": 0, "num_retries": 0, **said, **options}
        if chat_template is None or isinstance(chat_template, str):
            chat_template = named_template(chat_template or "default")
        super().__init__(
            "LiteLLM",
            capabilities=Capabilities(
                shape="chat",
                continues_turns=False,
                parameters=frozenset(_PARAMETERS),
                remedies=_REMEDIES,
                videos=False,
                scores=None,
                prefix_cache=False,
            ),
            chat_template=chat_template,
            errors=(openai.OpenAIError,),
            goodbye=_nothing,
            secrets=() if api_key is None else (api_key,),
            max_retries=max_retries,
            max_wait=max_wait,
        )

    def _ask(self, prompt: Prompt, params: SamplingParams) -> Ask:
        fields = {"model": self.model_name, "messages": turns_of(prompt), **chat_fields_of(params)}
        if params.max_new_tokens is not None:
            fields["max_tokens"] = params.max_new_tokens
        sent, here = divide(params.stop or (), most=_MOST_STOPS, takes=lambda stop: bool(stop.strip()))
        if sent:
            fields["stop"] = list(sent)
        return Ask({**fields, **self._options}, here)

    async def _whole(self, ask: Ask, answer: Answer) -> None:
        read(await litellm.acompletion(**ask.fields), answer)

    async def _pieces(self, ask: Ask, answer: Answer) -> AsyncGenerator[None, None]:
        fields = {**ask.fields, "stream": True, "stream_options": {"include_usage": True}}
        async for chunk in await litellm.acompletion(**fields):
            read(chunk, answer)
            yield

    def _failure(self, error: Exception) -> Failure:
        if isinstance(error, openai.APITimeoutError):
            return lost(error)
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            headers = getattr(getattr(error, "response", None), "headers", None) or {}
            return answered(status, str(error), headers)
        return Failure(f"failed: {error}")


async def _nothing() -> None:
    """litellm keeps its connections for all its users."""
