# SPDX-License-Identifier: Apache-2.0
"""`PromptScores`: the log-probabilities of one prompt, collected while it is computed.

Position j of the prompt is scored by the logits at j - 1. Each position is asked for in exactly one pass,
whatever chunks the prompt is cut into and however often its request is retracted in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from sgl_runtime.messages import I32, Logprobs

_EVERYTHING = 1 << 62


class PromptScores:
    __slots__ = ("_ask", "_prompt", "_start", "_tops", "_values", "top")

    def __init__(self, prompt: I32, start: int, top: int) -> None:
        """Of prompt[start:]; `top`: how many of the most likely tokens beside each."""
        self.top = top
        self._prompt = prompt
        self._start = start
        # The first token of a prompt follows nothing and has no probability.
        self._values: list[float | None] = [None] if start == 0 else []
        self._tops: list[list[tuple[int, float]]] = [[]] if start == 0 else []
        self._ask = max(start, 1) - 1

    @property
    def wanted(self) -> int:
        """The first position whose logits are still to be asked for; beyond every prompt if there is none."""
        return self._ask if self._ask < len(self._prompt) - 1 else _EVERYTHING

    def ask(self, begin: int, end: int) -> range:
        """A pass computes positions [begin, end): those whose logits it must report, never again."""
        asked = range(max(begin, self._ask), min(end, len(self._prompt) - 1))
        assert begin <= self._ask or not asked, "a position to be scored was skipped"
        self._ask = max(self._ask, asked.stop) if asked else self._ask
        return asked

    def collect(self, entries: Sequence[tuple[float, list[tuple[int, float]]]]) -> None:
        """What a pass reported, in the order asked."""
        for value, top in entries:
            self._values.append(value)
            self._tops.append(list(top))

    def logprobs(self) -> Logprobs:
        """Everything collected; of a request that was cut short, as far as it came."""
        end = self._start + len(self._values)
        return Logprobs(self._prompt[self._start : end].tolist(), self._values, self._tops)
