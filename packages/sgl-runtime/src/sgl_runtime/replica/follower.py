# SPDX-License-Identifier: Apache-2.0
"""The loop of every other rank: compute what the leader planned. It decides nothing."""

from __future__ import annotations

from typing import Protocol

from sgl_runtime.channel import Tap
from sgl_runtime.messages import Batch, ToFollower


class Forward(Protocol):
    """What a follower needs of a runner."""

    def forward(self, batch: Batch) -> object: ...


def follow(runner: Forward, leader: Tap[ToFollower]) -> None:
    """Compute every batch in the order it was sent; return at `Halt`."""
    while isinstance(message := leader.receive(), Batch):
        runner.forward(message)
