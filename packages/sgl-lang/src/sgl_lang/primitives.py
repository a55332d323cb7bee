# SPDX-License-Identifier: Apache-2.0
"""The words of a program: `gen`, and the roles `system`, `user` and `assistant`.

Each returns an expression; nothing happens before it is appended to a state.
"""

from __future__ import annotations

from collections.abc import Iterable

from sgl_lang.errors import ProgramError
from sgl_lang.ir import Expr, Gen, Role, RoleBegin, RoleEnd, expression
from sgl_lang.sampling import SamplingParams, strings


def gen(
    name: str | None = None,
    max_tokens: int | None = None,
    stop: str | Iterable[str] | None = None,
    *,
    min_tokens: int | None = None,
    stop_token_ids: Iterable[int] | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    frequency_penalty: float | None = None,
    presence_penalty: float | None = None,
    repetition_penalty: float | None = None,
    ignore_eos: bool | None = None,
    seed: int | None = None,
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
        stop_token_ids: stop at any of these tokens.
        temperature: 0 always takes the most likely token.
        top_p: sample among the most likely tokens that together reach this probability.
        top_k: sample among this many most likely tokens; -1 means all.
        min_p: sample among tokens at least this probable, relative to the most likely one.
        frequency_penalty: subtracted from a token's logit for each time it was generated.
        presence_penalty: subtracted once from the logit of a token that was generated.
        repetition_penalty: divides the logits of tokens of the prompt and the output; 1 changes nothing.
        ignore_eos: go on after an end-of-sequence token.
        seed: the same seed on the same prompt samples the same text.
        return_logprob: report the tokens' log-probabilities in `get_meta_info(name)`.
        logprob_start_len: report those of the prompt too, from this position on.
        top_logprobs_num: beside each token, report this many most likely ones.
        return_text_in_logprobs: report the text of tokens beside their ids.
    """
    if name is not None and not isinstance(name, str):
        raise ProgramError(f"gen() takes the variable's name first, a str, not {type(name).__name__}")
    params = SamplingParams(
        max_new_tokens=max_tokens,
        min_new_tokens=min_tokens,
        stop=strings(stop),
        stop_token_ids=None if stop_token_ids is None else tuple(stop_token_ids),
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        frequency_penalty=frequency_penalty,
        presence_penalty=presence_penalty,
        repetition_penalty=repetition_penalty,
        ignore_eos=ignore_eos,
        seed=seed,
        return_logprob=return_logprob,
        logprob_start_len=logprob_start_len,
        top_logprobs_num=top_logprobs_num,
        return_text_in_logprobs=return_text_in_logprobs,
    )
    return Expr((Gen(name, params),))


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
