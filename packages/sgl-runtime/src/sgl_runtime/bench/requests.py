# SPDX-License-Identifier: Apache-2.0
"""What a benchmark sends: requests, conversations of them, and when they begin. Knows no server."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Request:
    """One prompt, as token ids or as text, and how many tokens are asked for."""

    prompt: list[int] | str
    output_len: int
    input_len: int | None = None  # tokens of a text, if they were counted
    temperature: float = 0.0
    seed: int | None = None
    ignore_eos: bool = True
    schema: dict[str, Any] | None = None  # the answer is to be JSON of it


Conversation = Sequence[Request]  # each is sent when the one before it is answered


@dataclass(frozen=True)
class Load:
    """Conversations and when they begin.

    `arrivals`: seconds after the start, one each. With `wave` set, so many begin together, and the next when
    all of these have ended; then arrivals are 0.
    """

    name: str
    conversations: list[Conversation]
    arrivals: list[float] = field(default_factory=list)
    wave: int | None = None
    stream: bool = True

    @property
    def size(self) -> int:
        """Requests."""
        return sum(len(conversation) for conversation in self.conversations)


def arriving(
    name: str, made: Iterable[Conversation], rng: random.Random, rate: float, *, stream: bool
) -> Load:
    """A load whose conversations begin as a Poisson process of `rate` a second; inf: all at once.

    `rng` is drawn from in turns with the making: what is made does not depend on the rate only where there
    is none.
    """
    conversations, arrivals, at = [], [], 0.0
    for conversation in made:
        conversations.append(conversation)
        arrivals.append(at)
        if math.isfinite(rate):
            at += rng.expovariate(rate)
    return Load(name, conversations, arrivals, stream=stream)


class Vocabulary:
    """Random prompts: ids that are words in any usual vocabulary of `size`, not bytes and not special."""

    def __init__(self, size: int) -> None:
        self._low = min(1000, size // 4)
        self._high = min(100_000, size - size // 8 if size < 4000 else size - 1000)

    def ids(self, rng: random.Random, count: int) -> list[int]:
        return [rng.randrange(self._low, self._high) for _ in range(count)]


def skewed(rng: random.Random, median: float, sigma: float, low: int, high: int) -> int:
    """A length as chats have them: log-normal, within [low, high]."""
    return max(low, min(high, int(rng.lognormvariate(0, sigma) * median)))


def chat_like(rng: random.Random, vocabulary: Vocabulary) -> Request:
    """A prompt of 110 tokens in the median, up to 2,048, and an answer of 150, up to 1,024."""
    prompt = vocabulary.ids(rng, skewed(rng, 110, 1.1, 4, 2048))
    return Request(prompt, skewed(rng, 150, 0.9, 4, 1024))
