# SPDX-License-Identifier: Apache-2.0
"""`PromptScores`: the log-probabilities of one prompt, collected while it is computed.

Position j of the prompt is scored by the logits at j - 1, and what may stand behind it by the last ones. Each
position is asked for in exactly one pass, whatever chunks the prompt is cut into and however often its
request is retracted in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sgl_runtime.messages import I32, Logprobs, LogprobSpec

_EVERYTHING = 1 << 62


class Asked(NamedTuple):
    """Log-probabilities that a pass must report, in this order."""

    positions: I32  # [p] whose logits they are made of, ascending
    targets: I32  # [p]


class PromptScores:
    __slots__ = ("_after", "_ask", "_end", "_prompt", "_start", "_tops", "_values", "top")

    def __init__(self, prompt: I32, spec: LogprobSpec) -> None:
        """Of prompt[spec.start:], of none of it if that is -1, and of `spec.after` behind it."""
        start = len(prompt) if spec.start < 0 else spec.start
        self.top = spec.top
        self._prompt = prompt
        self._after = np.array(spec.after, np.int32)
        self._end = len(prompt) if spec.after else len(prompt) - 1
        self._start = start
        # The first token of a prompt follows nothing and has no probability.
        self._values: list[float | None] = [None] if start == 0 else []
        self._tops: list[list[tuple[int, float]]] = [[]] if start == 0 else []
        self._ask = max(start, 1) - 1

    @property
    def wanted(self) -> int:
        """The first position whose logits are still to be asked for; beyond every prompt if there is none."""
        return self._ask if self._ask < self._end else _EVERYTHING

    def ask(self, begin: int, end: int) -> Asked:
        """A pass computes positions [begin, end): what it must report of them, never again."""
        positions = np.arange(max(begin, self._ask), min(end, self._end), dtype=np.int32)
        if not len(positions):
            return Asked(positions, positions)
        assert begin <= self._ask, "a position to be scored was skipped"
        self._ask = int(positions[-1]) + 1
        targets = self._prompt[positions[0] + 1 : self._ask + 1]
        if self._ask < len(self._prompt):
            return Asked(positions, targets)
        behind = np.full(len(self._after), self._ask - 1, np.int32)
        return Asked(np.concatenate((positions[:-1], behind)), np.concatenate((targets, self._after)))

    def collect(self, entries: Sequence[tuple[float, list[tuple[int, float]]]]) -> None:
        """What a pass reported, in the order asked."""
        for value, top in entries:
            self._values.append(value)
            self._tops.append(list(top))

    def logprobs(self) -> Logprobs:
        """Everything collected; of a request that was cut short, as far as it came."""
        tokens = [*self._prompt[self._start :].tolist(), *self._after.tolist()]
        return Logprobs(tokens[: len(self._values)], self._values, self._tops)
