# SPDX-License-Identifier: Apache-2.0
"""Weights as they are: one matrix [outputs, inputs] in the dtype of the activations."""

from __future__ import annotations

import torch
from sgl_kernels import PackedWeight
from torch import Tensor, nn

from sgl_runtime.parallel.shard import Shard
from sgl_runtime.quantization.protocol import LinearShape


class Unquantized:
    name = "unquantized"

    def parameters(self, shape: LinearShape, dtype: torch.dtype, device: torch.device) -> dict[str, Shard]:
        return {"weight": Shard((shape.outputs, (shape.inputs,)), dtype, device)}

    def finish(self, layer: nn.Module) -> None:
        """Lay the weight out for multiplication; as a parameter it is needed no more."""
        weight = layer.weight
        assert isinstance(weight, Tensor)
        layer.packed = PackedWeight(weight)  # type: ignore[assignment]  # a module may hold anything
        layer.register_parameter("weight", None)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
        packed: PackedWeight = layer.packed  # type: ignore[assignment]  # of what finish() put there
        return packed.multiply(x, bias)
