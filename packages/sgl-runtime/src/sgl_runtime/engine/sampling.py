# SPDX-License-Identifier: Apache-2.0
"""Sampling parameters as users write them -> `messages.Sampling`, validated.

Ranges that need no context are part of the types, so msgspec reports them with their path; what depends on
the vocabulary, on the prompt's length or on another field is checked in `resolve`.

How long an answer may get: a `max_new_tokens` that was given is refused when it cannot fit behind the prompt;
one that was not is the endpoint's default, cut to what fits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.messages import Capacity, Constraint, Sampling

GREEDY_BELOW = 1e-6  # a temperature this low is 0
_SEEDS = 2**63
_CONSTRAINTS: tuple[Literal["regex", "json_schema", "ebnf"], ...] = ("regex", "json_schema", "ebnf")

Spell: TypeAlias = Callable[[str], str]  # a field's name here -> the path under which the user wrote it

_Penalty: TypeAlias = Annotated[float, Meta(ge=-2, le=2)]
_Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
_Token: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
_StopString: TypeAlias = Annotated[str, Meta(min_length=1, max_length=4096)]


class SamplingFields(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that all endpoints spell alike. None: not given."""

    temperature: Annotated[float, Meta(ge=0, le=1000)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: _Share | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-_SEEDS, le=_SEEDS - 1)] | None = None
    n: Annotated[int, Meta(ge=1, le=1024)] | None = None
    stop: _StopString | Annotated[list[_StopString], Meta(max_length=64)] | None = None
    stop_token_ids: list[_Token] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    # Constraints on the text, at most one of them.
    regex: str | None = None
    json_schema: str | dict[str, Any] | bool | None = None  # as JSON text or as the schema itself
    ebnf: str | None = None  # in llama.cpp's notation (GBNF) or in Lark's
    stop_regex: Annotated[Any, Meta(extra_json_schema={"enum": [None]})] = None  # refused in `resolve`


class SamplingBody(SamplingFields, kw_only=True, forbid_unknown_fields=True):
    """`sampling_params` of the native endpoint; the other endpoints are translated into it."""

    max_new_tokens: Annotated[int, Meta(ge=0)] | None = None
    min_new_tokens: Annotated[int, Meta(ge=0)] | None = None


def resolve(
    body: SamplingBody, *, prompt: int, limits: Capacity, default_length: int | None, seed: int, spell: Spell
) -> Sampling:
    """The parameters of the first sample of a prompt of `prompt` tokens.

    `default_length` stands in for max_new_tokens when none is given, None for all that fits; `seed` stands in
    for a seed. Raises InvalidRequest naming the field as `spell` writes it.
    """
    if body.stop_regex is not None:
        raise InvalidRequest(
            f"{spell('stop_regex')}: patterns do not stop a text here; give strings in {spell('stop')}, or a"
            f" {spell('regex')} that the text ends with",
            param=spell("stop_regex"),
        )
    if body.top_k == 0:
        raise InvalidRequest(
            f"{spell('top_k')} must be -1 (all tokens) or at least 1, got 0", param=spell("top_k")
        )
    stop_tokens = tuple(body.stop_token_ids or ())
    bias = tuple((body.logit_bias or {}).items())
    check_tokens(stop_tokens, limits.vocab_size, spell("stop_token_ids"))
    check_tokens([token for token, _ in bias], limits.vocab_size, spell("logit_bias"))
    longest = _length(body.max_new_tokens, prompt, limits, default_length, spell)
    shortest = body.min_new_tokens or 0
    if shortest > longest:
        raise InvalidRequest(
            f"{spell('min_new_tokens')} is {shortest}, but at most {longest} tokens will be generated: lower"
            f" it or raise {spell('max_new_tokens')}",
            param=spell("min_new_tokens"),
        )
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    temperature = 1.0 if body.temperature is None else body.temperature
    return Sampling(
        max_new_tokens=longest,
        min_new_tokens=shortest,
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=-1 if body.top_k is None else body.top_k,
        min_p=body.min_p or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        seed=(seed if body.seed is None else body.seed) % _SEEDS,
        stop=tuple(string.encode() for string in stop),
        stop_token_ids=stop_tokens,
        ignore_eos=bool(body.ignore_eos),
        logit_bias=bias,
        constraint=_constraint(body, spell),
    )


def _constraint(body: SamplingBody, spell: Spell) -> Constraint | None:
    """What the text must be; whether it can be enforced is for `Constraints` to say."""
    given = [kind for kind in _CONSTRAINTS if getattr(body, kind) is not None]
    if not given:
        return None
    if len(given) > 1:
        raise InvalidRequest(
            f"{spell(given[0])} and {spell(given[1])} are both given: a text can follow one constraint only",
            param=spell(given[1]),
        )
    kind = given[0]
    value = getattr(body, kind)
    try:
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(
            f"{spell(kind)} is not valid Unicode: it holds half of a surrogate pair", param=spell(kind)
        ) from None
    except RecursionError:
        raise InvalidRequest(f"{spell(kind)} is nested too deeply", param=spell(kind)) from None
    return Constraint(kind, text)


def sample_of(sampling: Sampling, sample: int) -> Sampling:
    """The parameters of sample `sample` of n: the same, with the seed `sample` further."""
    return msgspec.structs.replace(sampling, seed=(sampling.seed + sample) % _SEEDS)


def check_tokens(tokens: list[int] | tuple[int, ...], vocab_size: int, param: str) -> None:
    """Raises InvalidRequest if a token id lies outside of the vocabulary."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab_size:
        wrong = next(token for token in tokens if not 0 <= token < vocab_size)
        raise InvalidRequest(
            f"{param}: token id {wrong} is out of range, this model has the ids 0 to {vocab_size - 1}",
            param=param,
        )


def check_prompt(prompt: int, limits: Capacity, param: str) -> None:
    """Raises InvalidRequest if a prompt of `prompt` tokens is longer than what can be held."""
    limit = min(limits.context_length, limits.slots)
    if prompt > limit:
        raise InvalidRequest(
            f"{param}: the prompt has {prompt} tokens, more than {_words(limits)}; {_remedy(limits)}",
            param=param,
        )


def _length(given: int | None, prompt: int, limits: Capacity, default: int | None, spell: Spell) -> int:
    field = spell("max_new_tokens")
    room = min(limits.context_length, limits.slots) - prompt
    if given is not None and given > room:
        raise InvalidRequest(
            f"{field}: a prompt of {prompt} tokens and {given} new ones are more than {_words(limits)};"
            f" ask for at most {room} new tokens, or {_remedy(limits)}",
            param=field,
        )
    if given is not None:
        return given
    if room == 0:
        raise InvalidRequest(
            f"the prompt of {prompt} tokens fills {_words(limits)} and leaves no room for an answer;"
            f" {_remedy(limits)}",
            param=field,
        )
    return room if default is None else min(default, room)


def _words(limits: Capacity) -> str:
    if limits.slots < limits.context_length:
        return f"the {limits.slots} tokens that fit into this server's memory"
    return f"the context of {limits.context_length} tokens"


def _remedy(limits: Capacity) -> str:
    if limits.slots < limits.context_length:
        return (
            "shorten the prompt or start the server with a larger --max-total-tokens or --mem-fraction-static"
        )
    return "shorten the prompt"
