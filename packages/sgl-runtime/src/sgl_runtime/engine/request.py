# SPDX-License-Identifier: Apache-2.0
"""A request after `prepare`: prompts, and for each prompt the samples to draw from it. Nothing here is
invalid.

A replica knows a sample by `generate.rid`, an id of ours that is never used twice, so an answer that crosses
an abort on the way can never reach a later request. `id` is the name the user knows.
"""

from __future__ import annotations

import msgspec

from sgl_runtime.messages import Generate


class TextOptions(msgspec.Struct, frozen=True):
    """How the tokens of a sample become text."""

    skip_special: bool = True
    shown: frozenset[int] = frozenset()  # special tokens that are not skipped
    spaces_between_special: bool = True
    keep_stop: bool = False


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate."""

    index: int  # its place in the answer: prompt by prompt, sample by sample
    id: str
    rid: str  # what /abort_request may call it, beside `id`; others may share it
    generate: Generate
    text: TextOptions


class Prompt(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and its samples. They are sent together, to one replica: of requests that begin alike its
    scheduler lets the others wait until the first has computed what they share.
    """

    text: str | None  # None: the user gave tokens
    samples: tuple[Sample, ...]
    # Where several samples want the log-probabilities of their prompt: a request for these alone, of no new
    # tokens. What is scored must be computed, so each sample would compute the prompt again; with this they
    # follow when it has ended, and find the prompt in the cache.
    first: Generate | None = None

    @property
    def tokens(self) -> list[int]:
        return self.samples[0].generate.tokens


class PreparedRequest(msgspec.Struct, frozen=True, kw_only=True):
    prompts: tuple[Prompt, ...]

    @property
    def samples(self) -> list[Sample]:
        """All samples, by index."""
        return [sample for prompt in self.prompts for sample in prompt.samples]

    @property
    def names(self) -> set[str]:
        """Every name by which a part of this request may be aborted."""
        return {name for sample in self.samples for name in (sample.id, sample.rid)}
