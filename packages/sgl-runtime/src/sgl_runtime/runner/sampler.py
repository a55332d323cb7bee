# SPDX-License-Identifier: Apache-2.0
"""Logits -> tokens: bias and penalties on raw logits, masks, then temperature, min-p, top-k and top-p.

A row whose logits name no token (NaN, plus infinity, or nothing above minus infinity) gets -1; the rows
beside it do not notice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from sgl_kernels import SamplingParameters, available, sample
from sgl_kernels.sampling import reference
from torch import Tensor

from sgl_runtime.errors import ConfigError
from sgl_runtime.messages import I32, Masks, SamplingArrays
from sgl_runtime.runner.masks import MaskTable
from sgl_runtime.runner.penalties import Penalties
from sgl_runtime.runner.transfer import to_device

_Sample: TypeAlias = Callable[[Tensor, SamplingParameters], Tensor]


class Sampler:
    def __init__(self, vocab_size: int, device: torch.device, backend: str = "auto") -> None:
        """backend: as --sampling-backend. Raises ConfigError if it is not to be had here."""
        self._sample = _backend(backend, device)
        self._penalties = Penalties(vocab_size, device)
        self._masks = MaskTable(vocab_size, device)
        self._device = device

    def begin(self, sampling: SamplingArrays) -> None:
        """Take note of the requests that entered their rows with this batch, whether or not they get a
        token."""
        self._penalties.begin(sampling.histories)

    def __call__(
        self, logits: Tensor, rows: I32, sampling: SamplingArrays, masks: Masks | None = None
    ) -> Tensor:
        """logits [m, V] of any float dtype, left as they are; page-table `rows` [m] -> tokens [m] int32."""
        biased = sampling.bias_rows.size > 0
        penalised = self._penalties.select(rows, sampling)
        scores = logits
        if biased or penalised is not None or masks is not None:
            scores = logits.to(torch.float32, copy=True)
        if biased:
            self._add_bias(scores, sampling)
        if penalised is not None:
            self._penalties.apply(scores, penalised)
        if masks is not None:
            self._masks.apply(scores, masks)
        tokens = self._sample(
            scores,
            SamplingParameters.of(
                sampling.temperature,
                sampling.top_k,
                sampling.top_p,
                sampling.min_p,
                sampling.seeds,
                sampling.steps,
                self._device,
            ),
        )
        if penalised is not None:
            self._penalties.count(tokens, penalised)
        return tokens

    def _add_bias(self, scores: Tensor, sampling: SamplingArrays) -> None:
        where = to_device({"row": sampling.bias_rows, "token": sampling.bias_tokens}, np.int64, self._device)
        values = to_device({"value": sampling.bias_values}, np.float32, self._device)
        scores.index_put_((where["row"], where["token"]), values["value"], accumulate=True)


def _backend(name: str, device: torch.device) -> _Sample:
    if name == "flashinfer":
        raise ConfigError(
            "--sampling-backend flashinfer is not offered: the Triton kernels draw from the same "
            "distributions in fewer reads of the logits, with a seed for each row; use auto",
            param="sampling_backend",
        )
    if name == "reference":
        return reference
    if name == "triton" and (device.type != "cuda" or not available()["triton"].usable):
        reason = (
            available()["triton"].reason if device.type == "cuda" else f"it needs CUDA, not {device.type}"
        )
        raise ConfigError(f"--sampling-backend triton cannot be used: {reason}", param="sampling_backend")
    return sample
