# SPDX-License-Identifier: Apache-2.0
"""`Line`: the requests without a row. Retracted ones stand in front, by arrival; a policy orders the rest."""

from __future__ import annotations

from bisect import insort

from sgl_runtime.cache.prefix import PrefixCache
from sgl_runtime.scheduler.policy import Policy, in_turn
from sgl_runtime.scheduler.request import Request


class Line:
    def __init__(self, policy: Policy, cache: PrefixCache) -> None:
        self._policy = policy
        self._cache = cache
        self._waiting: dict[str, Request] = {}  # in order of arrival
        self._returned: list[Request] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._returned)

    def __contains__(self, request: Request) -> bool:
        return request.rid in self._waiting or request in self._returned

    @property
    def newcomers(self) -> int:
        """How many have never been admitted."""
        return len(self._waiting)

    def join(self, request: Request) -> None:
        self._waiting[request.rid] = request

    def put_back(self, request: Request) -> None:
        """A retracted request: before all newcomers, whatever the policy."""
        insort(self._returned, request, key=lambda each: each.arrival)

    def leave(self, request: Request) -> None:
        if self._waiting.pop(request.rid, None) is None:
            self._returned.remove(request)

    def ordered(self, admitted: int) -> list[Request]:
        """Whom to admit first, second, ... when `admitted` newcomers have been admitted so far."""
        waiting = list(self._waiting.values())
        return self._returned + in_turn(waiting, self._cache, self._policy, admitted=admitted)
