# SPDX-License-Identifier: Apache-2.0
"""`Pending`: a pass whose outputs are on their way from the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sgl_runtime.messages import Result
from sgl_runtime.runner.logprobs import Entry, Reported
from sgl_runtime.runner.transfer import to_host


class Pending:
    """Made right after the pass was launched; the host copies are already queued behind it."""

    def __init__(
        self,
        tokens: Tensor,
        sampled: Reported | None = None,
        prompt: Reported | None = None,
        pooled: Tensor | None = None,
        *,
        failed: Sequence[int] = (),
    ) -> None:
        """failed: requests of the batch that were not computed; what the result says of them is void."""
        self.failed = failed
        self._tokens = to_host(tokens)
        self._pooled = None if pooled is None else to_host(pooled)
        self._sampled = sampled
        self._prompt = prompt
        self._event: torch.cuda.Event | None = None
        if tokens.device.type == "cuda":
            self._event = torch.cuda.Event()
            self._event.record()

    def result(self) -> Result:
        """Wait for the device. A token of -1: the logits of that row named none, its request cannot go on."""
        if self._event is not None:
            self._event.synchronize()
        tokens = self._tokens.numpy().astype(np.int32, copy=False)
        return Result(
            tokens=tokens,
            output_logprobs=None if self._sampled is None else self._of_rows(self._sampled, tokens),
            pooled=None if self._pooled is None else self._pooled.numpy(),
            input_logprobs=None if self._prompt is None else self._prompt.entries(),
        )

    @staticmethod
    def _of_rows(
        sampled: Reported, tokens: np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    ) -> list[Entry | None]:
        rows: list[Entry | None] = [None] * tokens.size
        for row, entry in zip(sampled.which, sampled.entries(), strict=True):
            rows[row] = entry if tokens[row] >= 0 else None
        return rows
