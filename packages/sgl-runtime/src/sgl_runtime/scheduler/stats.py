# SPDX-License-Identifier: Apache-2.0
"""`Counters`: what happened since the start, for `Load`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Named as the fields of `Load` that they fill; `admitted` and `waits` fill none."""

    admitted: int = 0  # requests, each counted once
    prompt_tokens: int = 0  # of the admitted requests
    cached_tokens: int = 0  # those of them that the prefix cache had
    generated_tokens: int = 0
    retractions: int = 0
    steps: int = 0
    forced_tokens: int = 0
    waits: dict[str, float] = field(default_factory=dict)  # seconds in the line, of those not yet reported

    def take_waits(self) -> dict[str, float]:
        waits, self.waits = self.waits, {}
        return waits
