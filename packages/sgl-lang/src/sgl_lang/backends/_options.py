# SPDX-License-Identifier: Apache-2.0
"""Options on OpenAI's completions endpoint, which has no word for them: scored by an echo, or by a walk.

An echo is the text itself with the log-probability of each token; not every server gives it. A walk asks the
model for one token at a time and allows only those with which some option goes on. It begins where the tokens
of prompt and option, taken together, first differ between options, so that a token which is half prompt and
half option is handled like any other, and it asks only where there is a choice.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

from sgl_lang.backends.protocol import OptionScore
from sgl_lang.errors import BackendError, ProgramError, UnsupportedByBackend

Call: TypeAlias = Callable[..., Any]  # one request of the completions endpoint; returns its response

_MOST_BIASES = 300
_SURELY = 100  # the bias with which nothing else is left


class Tokenizer(Protocol):
    """What a walk needs of a tokenizer; `tiktoken.Encoding` has it."""

    eot_token: int

    def encode(self, text: str, *, disallowed_special: Any) -> list[int]: ...
    def decode_single_token_bytes(self, token: int) -> bytes: ...


def tokenizer_of(model: str) -> Tokenizer:
    """OpenAI's own tokenizer of a model. Raises ProgramError when there is none, or it cannot be loaded."""
    try:
        tiktoken = importlib.import_module("tiktoken")
    except ModuleNotFoundError:
        raise ProgramError("this needs the model's tokenizer: pip install tiktoken") from None
    try:
        tokenizer: Tokenizer = tiktoken.encoding_for_model(model)
    except KeyError:
        raise ProgramError(
            f"the tokenizer of {model!r} is not known; pass a tiktoken.Encoding as OpenAI(..., tokenizer=...)"
        ) from None
    except OSError as error:  # tiktoken downloads it once
        raise ProgramError(
            f"the tokenizer of {model!r} cannot be fetched ({error}); pass it as OpenAI(..., tokenizer=...)"
        ) from None
    return tokenizer


def echoed(
    call: Call, prompt: str, options: Sequence[str], *, unconditional: bool
) -> tuple[OptionScore, ...]:
    """Scores by the log-probabilities of an echo.

    Raises BackendError when the server does not echo, or when `unconditional` likelihoods cannot be told.
    """
    echoes = _echoes(call, [prompt + option for option in options])
    begin = _aligned(echoes, len(prompt))
    scored = [echo.after(begin) for echo in echoes]
    if not unconditional:
        return tuple(OptionScore(logprobs) for _, logprobs in scored)
    alone = _echoes(call, [echo.text[begin:] for echo in echoes])
    for (tokens, _), echo in zip(scored, alone, strict=True):
        if tokens != tuple(echo.tokens):
            raise BackendError(
                f"the option {echo.text!r} has other tokens without the prompt, so that its unconditional "
                "likelihood cannot be told; use another choices_method, or run on RuntimeEndpoint"
            )
    pairs = zip(scored, alone, strict=True)
    return tuple(OptionScore(own, unconditional=echo.after(0)[1]) for (_, own), echo in pairs)


def walked(call: Call, tokenizer: Tokenizer, prompt: str, options: Sequence[str]) -> tuple[OptionScore, ...]:
    """Scores by a walk. Raises UnsupportedByBackend for more options than can be told apart."""
    if len(options) > _MOST_BIASES:
        raise UnsupportedByBackend(
            f"OpenAI tells at most {_MOST_BIASES} options apart, not {len(options)}; run on RuntimeEndpoint"
        )

    def ask(text: list[int], allowed: list[int]) -> int:
        bias = {str(token): _SURELY for token in allowed}
        (choice,) = call(prompt=text, max_tokens=1, temperature=0, logit_bias=bias, logprobs=0).choices
        told = choice.logprobs.tokens[0] if choice.logprobs and choice.logprobs.tokens else choice.text
        for token in allowed:
            if told == spelled(token, tokenizer) or (token == tokenizer.eot_token and not choice.text):
                return token
        raise BackendError(f"OpenAI: the model went on with {told!r}, with which none of the options goes on")

    texts = [tokenizer.encode(prompt + option, disallowed_special=()) for option in options]
    walk = Walk(texts, tokenizer.eot_token)
    walk.go(ask)
    return walk.scores


def digits(tokenizer: Tokenizer) -> dict[int, float]:
    """The bias with which only digits are generated, and what ends a number."""
    texts = [" ", "\n", "-", *map(str, range(10)), *(f"{number:02}" for number in range(100))]
    encoded = [tokenizer.encode(text, disallowed_special=()) for text in texts]
    tokens = (ids[0] for ids in encoded if len(ids) == 1)
    return dict.fromkeys((*tokens, tokenizer.eot_token), float(_SURELY))


class Walk:
    """One walk.

    Args:
        options: the token ids of prompt and option together, for each option.
        end: the token that ends a text; it tells an option from a longer one that begins like it.
    """

    def __init__(self, options: Sequence[Sequence[int]], end: int) -> None:
        self._options = [(*option, end) for option in options]
        columns = zip(*self._options, strict=False)
        self.taken = [column[0] for column in _while_alike(columns)]
        self._begin = min(len(self.taken), min(map(len, self._options)) - 1)

    def go(self, ask: Callable[[list[int], list[int]], int]) -> None:
        """Walk to the end of an option. `ask(text, allowed)` says which of the allowed tokens comes next."""
        while open_ := [option for option in self._options if self._leads(option)]:
            place = len(self.taken)
            allowed = list(dict.fromkeys(option[place] for option in open_))
            self.taken.append(allowed[0] if len(allowed) == 1 else ask(list(self.taken), allowed))

    @property
    def scores(self) -> tuple[OptionScore, ...]:
        """0 for each token that was taken, -inf for those of options that were left, the end included."""
        return tuple(self._score(option) for option in self._options)

    def _leads(self, option: tuple[int, ...]) -> bool:
        return len(option) > len(self.taken) and option[: len(self.taken)] == tuple(self.taken)

    def _score(self, option: tuple[int, ...]) -> OptionScore:
        alike = sum(1 for _ in _while_alike(zip(option, self.taken, strict=False)))
        logprobs = tuple(0.0 if place < alike else -math.inf for place in range(self._begin, len(option)))
        return OptionScore(logprobs, tokens=option[self._begin :])


def spelled(token: int, tokenizer: Tokenizer) -> str:
    """A token as OpenAI spells it: its text, or where it is none by itself, `bytes:\\xe4\\xbd`."""
    data = tokenizer.decode_single_token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def _while_alike(columns: Any) -> list[tuple[int, ...]]:
    alike = []
    for column in columns:
        if len(set(column)) > 1:
            break
        alike.append(column)
    return alike


class _Echo:
    """The tokens of one text: how each is spelled, where it begins, and its log-probability."""

    def __init__(self, text: str, logprobs: Any) -> None:
        # A token that was generated begins where the text ends.
        kept = [place for place, offset in enumerate(logprobs.text_offset) if offset < len(text)]
        self.text = text
        self.tokens = [logprobs.tokens[place] for place in kept]
        self.offsets = [logprobs.text_offset[place] for place in kept]
        self._logprobs = [logprobs.token_logprobs[place] or 0.0 for place in kept]  # None: the first one

    def after(self, offset: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        """The tokens that begin at `offset` or later, and their log-probabilities."""
        places = [place for place, begin in enumerate(self.offsets) if begin >= offset]
        return tuple(self.tokens[place] for place in places), tuple(self._logprobs[place] for place in places)


def _echoes(call: Call, texts: list[str]) -> list[_Echo]:
    # One token more than none is asked for: not every server takes 0.
    response = call(prompt=texts, max_tokens=1, temperature=0, echo=True, logprobs=1)
    choices = sorted(response.choices, key=lambda choice: choice.index)
    if len(choices) != len(texts) or not all(choice.logprobs for choice in choices):
        raise BackendError(
            "OpenAI: this server does not echo prompts with log-probabilities; pass tokenizer=..., with "
            "which options are scored in another way, or run on RuntimeEndpoint"
        )
    return [_Echo(text, choice.logprobs) for text, choice in zip(texts, choices, strict=True)]


def _aligned(echoes: Sequence[_Echo], prompt_length: int) -> int:
    """The last place, at the prompt's end or before it, at which a token begins in every text."""
    common = set.intersection(*(set(echo.offsets) for echo in echoes))
    return max((offset for offset in common if offset <= prompt_length), default=0)
