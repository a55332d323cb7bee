# SPDX-License-Identifier: Apache-2.0
"""`Admission`: whether another request fits, not now, which is easy, but until the running ones end.

A request takes a slot more per step and gives back all when it ends. At each time from now its expected
memory is its size then, times the chance that it is still there (`Forecast`); of many requests the sum is
nearly certain, and a margin of standard deviations covers the rest. A newcomer fits if that stays below the
pool's size at all times.

The usual answer, a fixed share of max_new_tokens per request, added up as if nothing ever ended (the
new-token ratio), fails both ways: with limits far above real lengths it admits one request at a time, with
limits that are reached it admits until everything is retracted. Here a limit matters only as far as it is
reached, and a request with ignore_eos and no stop is known exactly. Mistakes still happen, and retraction
mends them; each widens the margin for some hundred steps. A margin makes newcomers wait for a few ends and
never stops what runs, so throughput does not collapse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sgl_runtime.scheduler.forecast import F64, Forecast, Integers
from sgl_runtime.scheduler.request import Request

_TIMES = 48  # points in the future that are looked at
# A step of few requests takes as long as one of twice as many: it is bound by reading the weights. While so
# few run, another is worth a retraction later on, and only so many steps ahead must fit.
_FEW = 8
_GAMBLE = 64


class Sizes(NamedTuple):
    """Requests as far as memory is concerned, [n] each."""

    held: Integers  # slots that each has brought, or will have brought when it has caught up
    generated: Integers  # tokens
    limit: Integers  # most tokens
    certain: Integers  # tokens that it will certainly generate

    def growth(self) -> Integers:
        """Slots that each will take at most: the last token of an output needs none."""
        growth: Integers = np.maximum(self.limit - self.generated - 1, 0)
        return growth

    def most(self) -> int:
        """Slots, if all go on to their limits and nobody ends before the others."""
        return int((self.held + self.growth()).sum())

    def ends(self) -> list[int]:
        """Steps from now at which some of them are known to be largest, and to end with the next."""
        ends: list[int] = self.growth()[self.certain >= self.limit].tolist()
        return ends


class Admission:
    """The requests of one plan: those that run, and newcomers as they are admitted."""

    def __init__(self, slots: int, forecast: Forecast, running: Sizes, line: Sequence[Request]) -> None:
        """`line`: those who may be asked about."""
        self._slots = slots
        self._forecast = forecast
        self._line = line
        self._admitted = [running]
        self._count = len(running.held)
        self._most = running.most()
        # Expected memory is looked at only when not even the worst case fits.
        self._times: Integers | None = None
        self._mean: F64 = np.empty(0)
        self._variance: F64 = np.empty(0)
        self._summed = 0  # so many of `_admitted` are in the mean and the variance

    def admit(self, request: Request, held: int, *, common: int, force: bool) -> bool:
        """Whether this one fits too, or is forced in; it then counts as running.

        `held`: slots it will bring when it has caught up. `common`: slots in use that end with no request.
        """
        newcomer = _newcomer(request, held)
        most = self._most + newcomer.most()
        if not force and common + most > self._slots and common + self._need(newcomer) > self._slots:
            return False
        self._admitted.append(newcomer)
        self._count += 1
        self._most = most
        return True

    def _need(self, newcomer: Sizes) -> float:
        """The most slots in use at any time, probably, if the newcomer is admitted."""
        times = self._look_ahead() if self._times is None else self._times
        for sizes in self._admitted[self._summed :]:
            mean, variance = self._expect(sizes, times)
            self._mean, self._variance = self._mean + mean, self._variance + variance
        self._summed = len(self._admitted)
        mean, variance = self._expect(newcomer, times)
        need = self._mean + mean + self._forecast.margin * np.sqrt(self._variance + variance)
        return float((need[times <= _GAMBLE] if self._count < _FEW else need).max())

    def _look_ahead(self) -> Integers:
        """The times to look at, from 0: the closer the denser, and the moments before certain ends."""
        running = self._admitted[0]
        horizon = self._forecast.horizon(running.generated)
        curve = (np.linspace(0.0, 1.0, _TIMES) ** 2 * horizon).astype(np.int64)
        soon = (request for request in self._line[:_TIMES] if request.certain >= request.stop.limit > 0)
        jumps = sorted(
            {max(request.stop.limit - len(request.output) - 2, 0) for request in soon}.union(running.ends())
        )
        self._times = np.array(sorted({*curve.tolist(), *jumps[:: len(jumps) // _TIMES + 1]}))
        self._mean = self._variance = np.zeros(len(self._times))
        return self._times

    def _expect(self, sizes: Sizes, times: Integers) -> tuple[F64, F64]:
        """Mean and variance of the slots in use at `times`, [k] each."""
        chance = self._forecast.survival(sizes.generated, sizes.limit, sizes.certain, times)
        chance[:, 0] = 1.0  # now they are all there, also those that need no more than their prompts
        # Up to the next of the times: those that are there at its start, as large as they are before its end.
        until = np.append(times[1:] - 1, times[-1])
        slots = chance * (sizes.held[:, None] + np.minimum(until, sizes.growth()[:, None]))
        return slots.sum(0), (slots * slots * (1.0 / np.maximum(chance, 1e-9) - 1.0)).sum(0)


def _newcomer(request: Request, held: int) -> Sizes:
    # The pass that computes its prompt also samples a token, while the running ones stand still.
    limit = request.stop.limit
    generated = min(len(request.output) + 1, limit)
    numbers = (held + (generated < limit), generated, limit, request.certain)
    return Sizes(*(np.array([number]) for number in numbers))
