# SPDX-License-Identifier: Apache-2.0
"""`Forecast`: how long outputs go on, learnt from those that have ended.

The survival curve of Kaplan and Meier (1958): an output that was cut, by its limit or its sender, counts for
what it shows, "at least so long". One that outlives all experience is expected to go on for as long again.
"""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

F64: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.integer[Any]]

_OUTPUTS = 256  # remembered
_PRIOR_OUTPUTS = 8  # of the length assumed at the start, so that the first real ones do not decide alone
_PRIOR_LENGTH = 128
_LONGEST = 1 << 16  # tokens: no use in telling longer outputs apart
_FAR = 8  # times the longest output known: nobody is expected to live so long
_CAUTION = 1.0  # standard deviations more, after a retraction
_MOST_CAUTION = 4.0
_RELAX = 0.995  # of the caution is left after a step


class Forecast:
    def __init__(self, slots: int, conservativeness: float) -> None:
        """`conservativeness`: standard deviations to allow for when nothing has gone wrong."""
        # Where the whole pool is small, so are the outputs that will be asked of it.
        self._prior = max(1, min(_PRIOR_LENGTH, slots // 16))
        prior_outputs = [(self._prior, True)] * _PRIOR_OUTPUTS
        self._outputs: deque[tuple[int, bool]] = deque(prior_outputs, maxlen=_OUTPUTS)
        self._conservativeness = conservativeness
        self._caution = 0.0
        self._curve: F64 | None = None  # [longest + 1]: the chance to get beyond each length

    @property
    def margin(self) -> float:
        """Standard deviations to allow for."""
        return self._conservativeness + self._caution

    def ended(self, generated: int, *, by_itself: bool) -> None:
        """An output of `generated` tokens, 1 or more, has ended; `by_itself`: not by its limit or sender."""
        self._outputs.append((min(generated, _LONGEST), by_itself))
        self._curve = None

    def retracted(self) -> None:
        """Memory ran out: too much had been admitted."""
        self._caution = min(self._caution + _CAUTION, _MOST_CAUTION)

    def stepped(self) -> None:
        self._caution *= _RELAX

    def horizon(self, generated: Integers) -> int:
        """After so many more tokens, requests that have generated `generated`, [n], have probably ended."""
        return _FAR * max(len(self._learned()), self._prior, int(generated.max(initial=0)))

    def survival(self, generated: Integers, limit: Integers, certain: Integers, times: Integers) -> F64:
        """The chance that a request goes on after `times` [k] more tokens, [n, k].

        Of requests that have generated so many, [n], may generate `limit` in all and will generate `certain`.
        """
        curve = self._learned()
        longest = len(curve) - 1
        then = generated[:, None] + times
        chance: F64 = curve[np.minimum(then, longest)] / curve[np.minimum(generated, longest - 1)][:, None]
        if curve[longest] > 0:
            # Some were cut at the longest length that was seen; beyond, no length is likelier than another.
            chance *= np.exp((longest - np.maximum(then, longest)) / max(longest, self._prior))
        old = np.flatnonzero(generated >= longest)
        if len(old):
            chance[old] = np.exp(-times / np.maximum(generated[old], self._prior)[:, None])
        chance[then < certain[:, None]] = 1.0
        chance[then >= limit[:, None]] = 0.0
        return chance

    def _learned(self) -> F64:
        """Kaplan and Meier: of those that were seen to reach a length, the share that did not end there."""
        if self._curve is None:
            lengths = np.array([length for length, _ in self._outputs])
            by_itself = np.array([ended for _, ended in self._outputs])
            size = int(lengths.max()) + 1
            ends = np.bincount(lengths[by_itself], minlength=size)
            reached = np.cumsum(np.bincount(lengths, minlength=size)[::-1])[::-1]
            self._curve = np.cumprod(1.0 - ends / reached).astype(np.float64)
        return self._curve
