# SPDX-License-Identifier: Apache-2.0
"""Stop strings that a vendor does not take: they are looked for here, in the text that has arrived.

A vendor may take only so many, or none that is blank. What it takes it gets; for the rest there is a `Cut`,
which shows a growing text up to the first of them, and holds back an end that may begin one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


def divide(
    stop: Iterable[str], *, most: int | None = None, takes: Callable[[str], bool] = bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Stop strings to send, at most `most` of those that the vendor takes, and those to look for here.

    Repeated and empty ones are left out: an empty one would stop before it begins.
    """
    sent: list[str] = []
    here: list[str] = []
    for each in dict.fromkeys(stop):
        if each:
            (sent if takes(each) and (most is None or len(sent) < most) else here).append(each)
    return tuple(sent), tuple(here)


class Cut:
    """Follows one growing text.

    Attributes:
        matched: the stop string that ended it, once one has.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.matched: str | None = None
        self._stops = stops

    def shown(self, text: str, *, over: bool = False) -> str:
        """What may be shown of `text`, which is all so far; `over`: nothing follows, nothing is held back."""
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.matched = min(found, key=lambda pair: pair[0])
            return text[:place]
        return text if over else text[: len(text) - self._held(text)]

    def _held(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        ends = range(min(longest, len(text)), 0, -1)
        return next((n for n in ends if any(stop.startswith(text[-n:]) for stop in self._stops)), 0)
