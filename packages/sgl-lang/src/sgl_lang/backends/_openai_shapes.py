# SPDX-License-Identifier: Apache-2.0
"""OpenAI's formats, as OpenAI's own client and LiteLLM return them: responses, chunks, schemas, errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sgl_lang.backends._answer import Answer, Lost
from sgl_lang.backends._schema import closed
from sgl_lang.backends.protocol import Prompt
from sgl_lang.sampling import SamplingParams


def turns_of(prompt: Prompt) -> list[dict[str, Any]]:
    """The conversation, without a turn of the assistant that is open and empty: the answer is that turn."""
    messages = prompt.messages
    if messages and messages[-1] == ("assistant", ""):
        messages = messages[:-1]
    return [message.openai() for message in messages]


def read(response: Any, answer: Answer) -> None:
    """Put a response, or a chunk of a stream, of either endpoint into `answer`.

    Raises Lost for what is neither; a server that is none of OpenAI's kind may send anything.
    """
    choices = getattr(response, "choices", None)
    if choices is None:
        raise Lost(f"does not answer in OpenAI's format: {response!r:.200}")
    for choice in choices:
        index = choice.index or 0
        said = getattr(choice, "delta", None) or getattr(choice, "message", None)
        text = getattr(choice, "text", None) if said is None else said.content
        if not isinstance(text, str | None):
            raise Lost(f"does not answer in OpenAI's format: {text!r:.200}")
        answer.say(text or "", index)
        answer.refuse(getattr(said, "refusal", None) or "", index)
        if (logprobs := getattr(choice, "logprobs", None)) is not None:
            _read_logprobs(logprobs, answer, index)
        if choice.finish_reason is not None:
            answer.end(choice.finish_reason, index)
    answer.count(**counts_of(response))


def counts_of(response: Any) -> dict[str, int | None]:
    """The tokens that a response reports, by their names in meta_info."""
    usage = getattr(response, "usage", None)
    details = getattr(usage, "prompt_tokens_details", None)
    return {
        "prompt_tokens": getattr(usage, "prompt_tokens", None),
        "cached_tokens": getattr(details, "cached_tokens", None),
        "completion_tokens": getattr(usage, "completion_tokens", None),
    }


def _read_logprobs(logprobs: Any, answer: Answer, index: int) -> None:
    """Both endpoints' log-probabilities as [log-probability, None for an id that is not told, text]."""
    if getattr(logprobs, "tokens", None) is not None:  # of a completion model
        rows = [
            [value, None, text] for value, text in zip(logprobs.token_logprobs, logprobs.tokens, strict=True)
        ]
        top = [[[v, None, t] for t, v in (row or {}).items()] for row in logprobs.top_logprobs or []]
    else:
        entries = logprobs.content or []
        rows = [[entry.logprob, None, entry.token] for entry in entries]
        top = [[[each.logprob, None, each.token] for each in entry.top_logprobs or []] for entry in entries]
    answer.log("output_token_logprobs", rows, index)
    if any(top):
        answer.log("output_top_logprobs", top, index)


_SAME = ("n", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")


def fields_of(params: SamplingParams) -> dict[str, Any]:
    """The sampling parameters that are called the same in both endpoints, where they say anything."""
    asked = params.asked()
    fields = {name: asked[name] for name in _SAME if name in asked}
    if "logit_bias" in asked:
        fields["logit_bias"] = {str(token): bias for token, bias in asked["logit_bias"].items()}
    return fields


def chat_fields_of(params: SamplingParams) -> dict[str, Any]:
    """What chat has beside `fields_of`: schemas and its own form of log-probabilities."""
    fields = fields_of(params)
    if params.json_schema is not None:
        schema = closed(json.loads(params.json_schema), all_required=True)
        form = {"name": "answer", "schema": schema, "strict": True}
        fields["response_format"] = {"type": "json_schema", "json_schema": form}
    if params.return_logprob:
        fields["logprobs"] = True
        if params.top_logprobs_num:
            fields["top_logprobs"] = params.top_logprobs_num
    return fields


def words_of(body: object, otherwise: str) -> str:
    """The sentence in the body of an error."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    message = inner.get("message") if isinstance(inner, Mapping) else inner
    return message if isinstance(message, str) and message else otherwise
