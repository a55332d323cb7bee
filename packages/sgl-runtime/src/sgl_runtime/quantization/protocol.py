# SPDX-License-Identifier: Apache-2.0
"""What a weight format is to a linear layer: what a checkpoint stores, and how to multiply with it.

Bias, division over ranks and all-reduce are the layer's. A format knows neither models nor requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from sgl_runtime.parallel.shard import Part, Shard


@dataclass(frozen=True)
class LinearShape:
    """One linear layer on one rank: x [..., inputs] -> [..., outputs], the outputs of stacked tensors side
    by side."""

    inputs: Part
    outputs: tuple[Part, ...]


class Quantization(Protocol):
    name: str

    def parameters(self, shape: LinearShape, dtype: torch.dtype, device: torch.device) -> dict[str, Shard]:
        """The tensors a checkpoint stores for such a layer, by the last word of their names."""
        ...

    def finish(self, layer: nn.Module) -> None:
        """Called once when all parameters of the layer are loaded: repack them for `apply`."""
        ...

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        """x [..., inputs] times the weight, plus the bias -> [..., outputs], in x's dtype."""
        ...
