# SPDX-License-Identifier: Apache-2.0
"""Requests that are answered by the computation of their prompts: with vectors, or with log-probabilities of
given tokens. Nothing is sampled. What goes in has been checked (`Preparation.tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import NamedTuple

from sgl_runtime.engine.request import PreparedRequest, Prompt, Sample, TextOptions
from sgl_runtime.messages import Generate, LogprobSpec, Sampling, new_rid

_PREFILL = Sampling(max_new_tokens=0, temperature=0.0, ignore_eos=True)


class Pool(NamedTuple):
    """One prompt to be answered with a vector."""

    tokens: list[int]
    text: str | None  # None: the user gave tokens
    id: str  # as `Sample.id`
    rid: str  # as `Sample.rid`


class Score(NamedTuple):
    """Tokens of which those from `start` on are to be given log-probabilities, and then each of `after`
    behind all of them.
    """

    tokens: list[int]
    start: int  # at least 1: nothing makes the first token likely
    after: tuple[int, ...] = ()


def pooling(prompts: Sequence[Pool], *, home: int) -> PreparedRequest:
    """One sample for each, in order. `home`: the number of this api process."""
    return PreparedRequest(
        prompts=tuple(
            Prompt(
                text=prompt.text, samples=(_sample(index, prompt.id, prompt.rid, prompt.tokens, None, home),)
            )
            for index, prompt in enumerate(prompts)
        )
    )


def scoring(groups: Sequence[Sequence[Score]], id: str, *, home: int) -> PreparedRequest:
    """One sample for each of a group, group by group. A group goes to one replica: its members should begin
    alike. `home`: the number of this api process.
    """
    indices = count()
    return PreparedRequest(
        prompts=tuple(
            Prompt(
                text=None,
                samples=tuple(
                    _sample(next(indices), id, id, tokens, LogprobSpec(start=start, after=after), home)
                    for tokens, start, after in group
                ),
            )
            for group in groups
        )
    )


def prompt_tokens(request: PreparedRequest) -> int:
    """Of all samples together."""
    return sum(len(sample.generate.tokens) for sample in request.samples)


def _sample(
    index: int, id: str, rid: str, tokens: list[int], logprobs: LogprobSpec | None, home: int
) -> Sample:
    generate = Generate(new_rid(home), tokens, _PREFILL, logprobs)
    return Sample(index=index, id=id, rid=rid, generate=generate, text=TextOptions())
