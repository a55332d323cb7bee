# SPDX-License-Identifier: Apache-2.0
"""How one of several choices is taken from the log-probabilities of their tokens.

Numbers in, a score for each choice out: the highest is chosen, the first of them if several are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeAlias

Method: TypeAlias = Literal[
    "token_length_normalized",
    "total_likelihood",
    "greedy_token_selection",
    "unconditional_likelihood_normalized",
]
UNCONDITIONAL: Method = "unconditional_likelihood_normalized"


class Scored(NamedTuple):
    """Log-probabilities of the tokens of one choice, at least one: after the prompt, and, for the method that
    compares them, without it."""

    after: Sequence[float]
    alone: Sequence[float] = ()


def scores(method: Method, choices: Sequence[Scored]) -> list[float]:
    return _METHODS[method](choices)


def _means(choices: Sequence[Scored]) -> list[float]:
    """Per token: a long choice has no disadvantage."""
    return [_mean(choice.after) for choice in choices]


def _totals(choices: Sequence[Scored]) -> list[float]:
    """Of the whole: which of them the model would say most often."""
    return [sum(choice.after) for choice in choices]


def _gains(choices: Sequence[Scored]) -> list[float]:
    """Per token, by how much the prompt makes it likelier (Brown et al. 2020, section 2.4)."""
    return [_mean(choice.after) - _mean(choice.alone) for choice in choices]


def _survivals(choices: Sequence[Scored]) -> list[float]:
    """For how many tokens each is among the likeliest; who is not leaves. One that is shorter than the others
    goes on with the mean of its tokens."""
    length = max(len(choice.after) for choice in choices)
    rows = [[*choice.after, *[_mean(choice.after)] * (length - len(choice.after))] for choice in choices]
    survived = [0.0] * len(rows)
    left = list(range(len(rows)))
    for column in range(length):
        best = max(rows[row][column] for row in left)
        left = [row for row in left if rows[row][column] == best]
        for row in left:
            survived[row] += 1.0
    return survived


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_METHODS: Mapping[Method, Callable[[Sequence[Scored]], list[float]]] = MappingProxyType(
    {
        "token_length_normalized": _means,
        "total_likelihood": _totals,
        "greedy_token_selection": _survivals,
        UNCONDITIONAL: _gains,
    }
)
