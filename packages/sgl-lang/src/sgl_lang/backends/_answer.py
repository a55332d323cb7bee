# SPDX-License-Identifier: Apache-2.0
"""`Answer`: what a vendor's API has said so far in one call, whatever the shape in which it says it.

A backend feeds it pieces of text, reasons and token counts as they arrive, whole or streamed, and takes a
`Completion` from it at any time. Stop strings that the vendor does not take end a sample here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sgl_lang.backends._failure import Failure
from sgl_lang.backends._stops import Cut
from sgl_lang.backends.protocol import Completion


class Refusal(Exception):
    """An answer that is none: blocked, refused, or not in the API's format. Ends the call; not repeated."""


class Lost(Exception):
    """The answer ended in the middle, or not in the API's format; another attempt may succeed."""


def failure_of(error: Refusal | Lost) -> Failure:
    """What it means for the call."""
    return Failure(str(error), again=isinstance(error, Lost))


class _Sample:
    def __init__(self, stops: tuple[str, ...], lead: str) -> None:
        self.raw = ""
        self.lead = lead
        self.refusal = ""
        self.reason: dict[str, Any] | None = None
        self.logprobs: dict[str, list[Any]] = {}
        self.cut = Cut(stops)

    @property
    def text(self) -> str:
        if self.lead.startswith(self.raw):
            return ""  # until more comes, it may be the lead
        return self.raw.removeprefix(self.lead)


class Answer:
    """The samples of one call.

    Args:
        id: of the generation.
        n: how many samples were asked for.
        stops: strings that end a sample and that the vendor was not told of.
        lead: the end of the prompt, if the vendor was not told of it either: the answer may begin with it.

    Attributes:
        counts: tokens of the whole call by their names in meta_info, as far as they are known.
    """

    def __init__(self, id: str, *, n: int = 1, stops: tuple[str, ...] = (), lead: str = "") -> None:
        self._id = id
        self._samples = [_Sample(stops, lead) for _ in range(n)]
        self.counts: dict[str, int] = {}

    def say(self, text: str, sample: int = 0) -> None:
        """More text of a sample."""
        its = self._its(sample)
        if its.cut.matched is None:
            its.raw += text
            its.cut.shown(its.text)

    def refuse(self, words: str, sample: int = 0) -> None:
        """More of the words with which the model refuses."""
        self._its(sample).refusal += words

    def end(self, reason: str, sample: int = 0, **more: Any) -> None:
        """A sample is over: "stop", "length", or a reason of the vendor's own."""
        self._its(sample).reason = {"type": reason, **more}

    def log(self, name: str, entries: Sequence[Any], sample: int = 0) -> None:
        """More log-probabilities of a sample, under a name of meta_info."""
        self._its(sample).logprobs.setdefault(name, []).extend(entries)

    def count(self, **counts: int | None) -> None:
        """What is known of the call's tokens by now; None is not."""
        self.counts.update({name: count for name, count in counts.items() if count is not None})

    def _its(self, sample: int) -> _Sample:
        if not 0 <= sample < len(self._samples):
            raise Lost(f"answers with sample number {sample} where {len(self._samples)} were asked for")
        return self._samples[sample]

    @property
    def cut(self) -> bool:
        """Every sample has been ended by a stop string here: what follows is not wanted."""
        return all(sample.cut.matched is not None for sample in self._samples)

    @property
    def growing(self) -> Completion:
        """What may be shown by now."""
        return self._completion(over=False)

    def whole(self) -> Completion:
        """The finished answer.

        Raises Lost if a sample has not ended, and Refusal if the model said nothing but why it will not.
        """
        for sample in self._samples:
            if sample.reason is None and sample.cut.matched is None:
                raise Lost("ended its answer in the middle")
            if not sample.text and sample.refusal:
                raise Refusal(f"refused: {sample.refusal}")
        return self._completion(over=True)

    def _completion(self, *, over: bool) -> Completion:
        first, *others = (self._one(sample, over=over) for sample in self._samples)
        return Completion(first.text, {**first.meta_info, **self.counts}, tuple(others))

    def _one(self, sample: _Sample, *, over: bool) -> Completion:
        text = sample.cut.shown(sample.text, over=over or sample.reason is not None)
        reason: Mapping[str, Any] | None = sample.reason
        if sample.cut.matched is not None:
            reason = {"type": "stop", "matched": sample.cut.matched}
        return Completion(text, {"id": self._id, "finish_reason": reason, **sample.logprobs})
