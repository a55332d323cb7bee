# SPDX-License-Identifier: Apache-2.0
"""`Bias`: what is added to the logits of one request: its logit_bias, and min_new_tokens as a ban on what
would end it."""

from __future__ import annotations

import numpy as np

from sgl_runtime.messages import F32, I32, Sampling


class Bias:
    """Built once per request, since every one of its steps needs it."""

    __slots__ = ("_always", "_early", "_until")

    def __init__(self, sampling: Sampling, stop_tokens: frozenset[int]) -> None:
        tokens = [token for token, _ in sampling.logit_bias]
        values = [value for _, value in sampling.logit_bias]
        self._until = sampling.min_new_tokens if stop_tokens else 0
        self._always = _arrays(tokens, values)
        # A token may stand in both lists: the runner adds, and minus infinity prevails.
        self._early = _arrays(tokens + sorted(stop_tokens), values + [float("-inf")] * len(stop_tokens))

    def __bool__(self) -> bool:
        """False: never adds anything."""
        return bool(self._until or len(self._always[0]))

    def at(self, steps: int) -> tuple[I32, F32]:
        """Token ids and what to add to their logits, [b] each, for output token number `steps`, counted from
        0."""
        return self._early if steps < self._until else self._always


def _arrays(tokens: list[int], values: list[float]) -> tuple[I32, F32]:
    return np.array(tokens, np.int32), np.array(values, np.float32)
