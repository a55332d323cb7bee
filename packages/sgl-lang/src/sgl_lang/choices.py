# SPDX-License-Identifier: Apache-2.0
"""How one of several choices is taken from the log-probabilities of their tokens.

A method is a value with a name; whoever wants another writes a class with the same two members. The file
knows numbers only: where they come from, and where an option begins in the text, is the backend's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sgl_lang.errors import ProgramError


class Scored(Protocol):
    """The scores of one choice: `protocol.OptionScore`."""

    @property
    def logprobs(self) -> Sequence[float]: ...
    @property
    def unconditional(self) -> Sequence[float] | None: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """The choice at `index`, and what is worth telling about how it came to be."""

    index: int
    meta_info: Mapping[str, Any] = field(default_factory=dict)


class ChoicesMethod(Protocol):
    """A way to choose.

    `unconditional` says whether it compares with how likely the choices are without the prompt.
    """

    @property
    def unconditional(self) -> bool: ...

    def __call__(self, options: Sequence[Scored]) -> Decision:
        """Choose among at least one option, each with at least one token."""
        ...


class TokenLengthNormalized:
    """The choice with the highest mean log-probability of its tokens.

    Long choices whose tail is certain once it has begun are preferred: the certain tokens raise the mean.
    """

    unconditional = False

    def __call__(self, options: Sequence[Scored]) -> Decision:
        return Decision(_highest([_mean(option.logprobs) for option in options]))


class GreedyTokenSelection:
    """The choice that greedy decoding arrives at: token by token, those with the likeliest token stay.

    A choice that is shorter than the others goes on with the mean of its tokens, so that one that begins
    like another can win or lose against it.
    """

    unconditional = False

    def __call__(self, options: Sequence[Scored]) -> Decision:
        length = max(len(option.logprobs) for option in options)
        matrix = [_padded(option.logprobs, length) for option in options]
        left = list(range(len(options)))
        for column in range(length):
            best = max(matrix[row][column] for row in left)
            left = [row for row in left if matrix[row][column] == best]
            if len(left) == 1:
                break
        return Decision(left[0], {"greedy_logprob_matrix": matrix})


class UnconditionalLikelihoodNormalized:
    """The choice that the prompt makes likelier by the most, per token.

    The mean, over a choice's tokens, of the log-probability after the prompt less the one without it: what
    is likely anywhere has no advantage. Brown et al. 2020, section 2.4 (https://arxiv.org/abs/2005.14165).
    """

    unconditional = True

    def __call__(self, options: Sequence[Scored]) -> Decision:
        alone = [option.unconditional for option in options]
        if any(scores is None for scores in alone):
            raise ProgramError(
                "unconditional_likelihood_normalized: the backend gave no scores without prompt"
            )
        gains = [
            _mean(after - before for after, before in zip(option.logprobs, scores or (), strict=True))
            for option, scores in zip(options, alone, strict=True)
        ]
        told = {
            "unconditional_token_logprobs": alone,
            "normalized_unconditional_prompt_logprobs": [_mean(scores or ()) for scores in alone],
        }
        return Decision(_highest(gains), told)


token_length_normalized: ChoicesMethod = TokenLengthNormalized()
greedy_token_selection: ChoicesMethod = GreedyTokenSelection()
unconditional_likelihood_normalized: ChoicesMethod = UnconditionalLikelihoodNormalized()


def _highest(values: Sequence[float]) -> int:
    """The index of the highest value, the first of them if several are."""
    return max(range(len(values)), key=values.__getitem__)


def _mean(values: Iterable[float]) -> float:
    several = tuple(values)
    return sum(several) / len(several)


def _padded(values: Sequence[float], length: int) -> list[float]:
    return [*values, *[_mean(values)] * (length - len(values))]
