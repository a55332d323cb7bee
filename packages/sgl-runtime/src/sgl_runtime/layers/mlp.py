# SPDX-License-Identifier: Apache-2.0
"""The gated feed-forward block of the Llama family: down(act(gate(x)) * up(x))."""

from __future__ import annotations

from sgl_kernels import silu_and_mul
from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.linear import ColumnLinear, RowLinear


class GatedMLP(nn.Module):
    """[T, hidden] -> [T, hidden], summed over the ranks. Raises ConfigError on an activation it does not
    have."""

    def __init__(self, build: Build, hidden: int, width: int, activation: str, *, bias: bool) -> None:
        super().__init__()
        if activation not in ("silu", "swish"):
            raise ConfigError(f"config.json: hidden_act {activation!r} is not supported; supported: silu")
        self.gate_up_proj = ColumnLinear(build, hidden, {"gate": width, "up": width}, bias=bias)
        self.down_proj = RowLinear(build, width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(silu_and_mul(self.gate_up_proj(x)))
