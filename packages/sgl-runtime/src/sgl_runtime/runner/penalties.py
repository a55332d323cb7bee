# SPDX-License-Identifier: Apache-2.0
"""What the requests with penalties have said so far, counted on the device.

A row's counts begin with the `History` that its request brought; every token sampled for it is added
without the host looking. Memory is taken for a few rows, and for more when they have had requests with
penalties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sgl_kernels import apply_penalties
from torch import Tensor

from sgl_runtime.messages import I32, History, SamplingArrays
from sgl_runtime.runner.transfer import to_device


@dataclass(frozen=True)
class Penalised:
    """The k of m sampled rows that have a penalty, in one pass."""

    which: Tensor  # [k] int64, among the m
    counted: Tensor  # [k] int64: where their counts are
    frequency: Tensor  # [k] float32
    presence: Tensor  # [k] float32
    repetition: Tensor  # [k] float32


class Penalties:
    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._place: dict[int, int] = {}  # page-table row -> row of the two tensors
        self._output = torch.zeros(
            0, vocab_size, dtype=torch.int32, device=device
        )  # how often, in the output
        self._prompt = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)  # whether, in the prompt

    def begin(self, histories: Sequence[History]) -> None:
        """Requests with penalties entered these rows: forget what was counted there and count their
        tokens."""
        for history in histories:
            place = self._place.setdefault(history.row, len(self._place))
            if place >= len(self._output):
                self._grow()
            said = to_device({"prompt": history.prompt, "output": history.output}, np.int64, self._device)
            once = torch.ones_like(said["output"], dtype=torch.int32)
            self._prompt[place].zero_().index_fill_(0, said["prompt"], True)
            self._output[place].zero_().index_add_(0, said["output"], once)

    def select(self, rows: I32, sampling: SamplingArrays) -> Penalised | None:
        """Which of the sampled page-table `rows` [m] are penalised; None if none is."""
        strengths = {
            "frequency": sampling.frequency_penalty,
            "presence": sampling.presence_penalty,
            "repetition": sampling.repetition_penalty,
        }
        penalised = (
            (strengths["frequency"] != 0) | (strengths["presence"] != 0) | (strengths["repetition"] != 1)
        )
        which = np.flatnonzero(penalised)
        if not which.size:
            return None
        places = np.array([self._place[row] for row in rows[which].tolist()])
        return Penalised(
            **to_device({"which": which, "counted": places}, np.int64, self._device),
            **to_device({name: each[which] for name, each in strengths.items()}, np.float32, self._device),
        )

    def apply(self, logits: Tensor, these: Penalised) -> None:
        """Penalise the logits [m, V] float32 of these rows, in place."""
        some = logits.index_select(0, these.which)
        apply_penalties(
            some,
            self._output.index_select(0, these.counted),
            self._prompt.index_select(0, these.counted),
            frequency=these.frequency,
            presence=these.presence,
            repetition=these.repetition,
        )
        logits.index_copy_(0, these.which, some)

    def count(self, tokens: Tensor, these: Penalised) -> None:
        """`tokens` [m] were sampled; -1 is no token."""
        mine = tokens.index_select(0, these.which).to(torch.int64)
        self._output.index_put_(
            (these.counted, mine.clamp(min=0)), (mine >= 0).to(torch.int32), accumulate=True
        )

    def _grow(self) -> None:
        more = max(4, len(self._output))
        self._output = torch.cat([self._output, self._output.new_zeros(more, self._vocab_size)])
        self._prompt = torch.cat([self._prompt, self._prompt.new_zeros(more, self._vocab_size)])
