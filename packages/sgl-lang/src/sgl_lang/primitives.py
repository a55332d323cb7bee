# SPDX-License-Identifier: Apache-2.0
"""The words of a program: `gen`, `select`, `image`, `video`, and the roles `system`, `user` and `assistant`.

Each returns an expression; nothing happens before it is appended to a state.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from sgl_lang.choices import ChoicesMethod
from sgl_lang.errors import ProgramError
from sgl_lang.ir import Expr, Gen, Role, RoleBegin, RoleEnd, Select, Show, expression
from sgl_lang.media import image_of, video_of
from sgl_lang.sampling import Dtype, SamplingParams, biases, strings, token_ids
from sgl_lang.schema import schema_text

_DTYPES: Mapping[object, Dtype] = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "str": "str",
}
_GREEDY_BELOW = 1e-6  # a temperature this low is 0


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] | None = None,
    *,
    min_tokens: int | None = None,
    n: int | None = None,
    stop_token_ids: Iterable[int] | None = None,
    stop_regex: str | Iterable[str] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repetition_penalty: float | None = None,
    logit_bias: Mapping[int, float] | None = None,
    ignore_eos: bool | None = None,
    seed: int | None = None,
    dtype: type | str | None = None,
    regex: str | None = None,
    json_schema: Any = None,
    ebnf: str | None = None,
    choices: Iterable[str] | None = None,
    choices_method: ChoicesMethod | None = None,
    skip_special_tokens: bool | None = None,
    spaces_between_special_tokens: bool | None = None,
    include_stop_str_in_output: bool | None = None,
    return_logprob: bool | None = None,
    logprob_start_len: int | None = None,
    top_logprobs_num: int | None = None,
    return_text_in_logprobs: bool | None = None,
) -> Expr:
    """Let the model continue; its words are the value of the variable `name`, read with `s[name]`.

    Appending does not wait: the text is generated in the background until somebody reads it. What is None is
    taken from `run()`, and what is None there from the server.

    Args:
        name: the variable; without a name the text can be read only as part of `text()`.
        max_tokens: stop after this many tokens; the default is run()'s `max_new_tokens`, 128.
        stop: stop before this string, or before any of these.
        min_tokens: neither an end-of-sequence token nor a stop token before this many.
        n: sample this many continuations. The value is their list; the program goes on with the first one.
        stop_token_ids: stop at any of these tokens.
        stop_regex: stop before what matches this regular expression, or any of these.
        temperature: 0 always takes the most likely token.
        top_p: sample among the most likely tokens that together reach this probability.
        top_k: sample among this many most likely tokens; -1 means all.
        min_p: sample among tokens at least this probable, relative to the most likely one.
        frequency_penalty: subtracted from a token's logit for each time it was generated.
        presence_penalty: subtracted once from the logit of a token that was generated.
        repetition_penalty: divides the logits of tokens of the prompt and the output; 1 changes nothing.
        logit_bias: token id -> what is added to its logit, -100 to 100.
        ignore_eos: go on after an end-of-sequence token.
        seed: the same seed on the same prompt samples the same text.
        dtype: int, float, bool or str: the text is a number, True or False, or a quoted string. It stays
            text: `int(s[name])`.
        regex: the text matches this regular expression.
        json_schema: the text is JSON that fits this schema: a dict, JSON text, a pydantic model, a dataclass
            or a msgspec Struct.
        ebnf: the text follows this grammar.
        choices: the text is one of these: the same as `select(name, choices)`.
        choices_method: with `choices`, how to choose; see `select`.
        skip_special_tokens: leave special tokens out of the text; the default.
        spaces_between_special_tokens: put spaces between special tokens in the text; the default.
        include_stop_str_in_output: end the text with the stop string instead of before it.
        return_logprob: report the tokens' log-probabilities in `get_meta_info(name)`.
        logprob_start_len: report those of the prompt too, from this position on.
        top_logprobs_num: beside each token, report this many most likely ones.
        return_text_in_logprobs: report the text of tokens beside their ids.

    Raises ProgramError for values that make no sense, such as a regex that is none.
    """
    _check_name("gen", name)
    params = SamplingParams(
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens,
        n=n,
        stop=strings(stop),
        stop_token_ids=token_ids(stop_token_ids),
        stop_regex=_regexes(strings(stop_regex, "stop_regex")),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        logit_bias=biases(logit_bias),
        ignore_eos=ignore_eos,
        seed=seed,
        dtype=None if dtype is None else _dtype(dtype),
        regex=None if regex is None else _regex(regex, "regex"),
        json_schema=None if json_schema is None else schema_text(json_schema),
        ebnf=ebnf,
        skip_special_tokens=skip_special_tokens,
        spaces_between_special_tokens=spaces_between_special_tokens,
        include_stop_str_in_output=include_stop_str_in_output,
        return_logprob=return_logprob,
        logprob_start_len=logprob_start_len,
        top_logprobs_num=top_logprobs_num,
        return_text_in_logprobs=return_text_in_logprobs,
    )
    if choices is None:
        if choices_method is not None:
            raise ProgramError("gen(): choices_method goes with choices")
        return Expr((Gen(name, params),))
    if surplus := sorted(set(params.said()) - {"temperature"}):
        raise ProgramError(f"gen(): choices are scored, not sampled; drop {', '.join(surplus)}")
    return select(name, choices, 0.0 if temperature is None else temperature, choices_method)


def gen_int(
    name: str | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] | None = None,
    **params: Any,
) -> Expr:
    """`gen(name, dtype=int)`: the model continues with a whole number. Takes the parameters of `gen`."""
    return gen(name, max_tokens, stop, dtype=int, **params)


def gen_string(
    name: str | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] | None = None,
    **params: Any,
) -> Expr:
    """`gen(name, dtype=str)`: the model continues with a string in quotes. Takes the parameters of `gen`."""
    return gen(name, max_tokens, stop, dtype=str, **params)


def select(
    name: str | None = None,
    choices: Iterable[str] | None = None,
    temperature: float = 0.0,
    choices_method: ChoicesMethod | None = None,
) -> Expr:
    """Let the model choose; its choice is the value of the variable `name`.

    Nothing is sampled: the model tells how likely each choice is after the text so far.

    Args:
        name: the variable.
        choices: what to choose from: any texts, even "" or one that another begins with.
        temperature: 0; there is no other way to take the most likely one.
        choices_method: how likely a whole choice is; by default `token_length_normalized` where the backend
            reports log-probabilities, else what greedy decoding would arrive at.

    Raises ProgramError for another temperature and for choices that are none.
    """
    _check_name("select", name)
    options = strings(choices, "choices")
    if options is None or isinstance(choices, str) or not options:
        raise ProgramError("select(): choices must be several strings, at least one")
    if not 0 <= temperature < _GREEDY_BELOW:
        raise ProgramError(f"select() takes the most likely choice: temperature must be 0, not {temperature}")
    return Expr((Select(name, options, choices_method),))


def image(source: str | os.PathLike[str] | bytes | Any) -> Expr:
    """A picture: a path, a URL, the bytes of a PNG, JPEG, GIF, WebP or BMP file, or a PIL image.

    Files are read at once; what lies behind a URL is fetched by the backend. Raises ProgramError for what
    cannot be read or is no image.
    """
    return Expr((Show(image_of(source)),))


def video(path: str | os.PathLike[str], num_frames: int) -> Expr:
    """A film from a file, of which the model sees `num_frames` pictures. Raises ProgramError like `image`."""
    return Expr((Show(video_of(path, num_frames)),))


def turn(role: Role, content: str | Expr) -> Expr:
    """`content`, spoken by `role`."""
    return Expr((RoleBegin(role), *expression(content).parts, RoleEnd(role)))


def system(content: str | Expr) -> Expr:
    """A turn of the system: what the model is to be."""
    return turn("system", content)


def user(content: str | Expr) -> Expr:
    """A turn of the user."""
    return turn("user", content)


def assistant(content: str | Expr) -> Expr:
    """A turn of the model, usually `assistant(gen("name"))`."""
    return turn("assistant", content)


def system_begin() -> Expr:
    """The system speaks until `system_end()`."""
    return Expr((RoleBegin("system"),))


def system_end() -> Expr:
    """The system has spoken."""
    return Expr((RoleEnd("system"),))


def user_begin() -> Expr:
    """The user speaks until `user_end()`."""
    return Expr((RoleBegin("user"),))


def user_end() -> Expr:
    """The user has spoken."""
    return Expr((RoleEnd("user"),))


def assistant_begin() -> Expr:
    """The model speaks until `assistant_end()`."""
    return Expr((RoleBegin("assistant"),))


def assistant_end() -> Expr:
    """The model has spoken."""
    return Expr((RoleEnd("assistant"),))


def _check_name(what: str, name: object) -> None:
    if name is not None and not isinstance(name, str):
        raise ProgramError(f"{what}() takes the variable's name first, a str, not {type(name).__name__}")


def _dtype(dtype: object) -> Dtype:
    if not isinstance(dtype, type | str) or dtype not in _DTYPES:
        raise ProgramError(f"gen(): dtype must be int, float, bool or str, not {dtype!r}")
    return _DTYPES[dtype]


def _regex(pattern: object, name: str) -> str:
    try:
        re.compile(cast(str, pattern))
    except (re.error, TypeError) as error:
        raise ProgramError(f"gen(): {name} is no regular expression: {error}") from None
    return cast(str, pattern)


def _regexes(patterns: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if patterns is None else tuple(_regex(pattern, "stop_regex") for pattern in patterns)
