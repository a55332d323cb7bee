# SPDX-License-Identifier: Apache-2.0
"""Feed-forward blocks: the gated one, down(act(gate(x)) * up(x)), and the plain one, down(act(up(x))).

Activations have the names that published configs give them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TypeAlias

from sgl_kernels import gelu_and_mul, silu_and_mul
from torch import Tensor, nn
from torch.nn import functional

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.linear import ColumnLinear, RowLinear

_Function: TypeAlias = Callable[[Tensor], Tensor]

_TANH = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast")
_GATED: Mapping[str, _Function] = MappingProxyType(
    {
        "silu": silu_and_mul,
        "swish": silu_and_mul,
        "gelu": gelu_and_mul,
        **dict.fromkeys(_TANH, partial(gelu_and_mul, approximate="tanh")),
    }
)
_PLAIN: Mapping[str, _Function] = MappingProxyType(
    {
        "relu": functional.relu,
        "silu": functional.silu,
        "gelu": functional.gelu,
        **dict.fromkeys(_TANH, partial(functional.gelu, approximate="tanh")),
    }
)


class GatedMLP(nn.Module):
    """[T, hidden] -> [T, hidden], summed over the ranks. Raises ConfigError on an activation it does not
    have."""

    def __init__(self, build: Build, hidden: int, width: int, activation: str, *, bias: bool) -> None:
        super().__init__()
        self._activate = _find(activation, _GATED)
        self.gate_up_proj = ColumnLinear(build, hidden, {"gate": width, "up": width}, bias=bias)
        self.down_proj = RowLinear(build, width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self._activate(self.gate_up_proj(x)))


class MLP(nn.Module):
    """The plain block; otherwise as `GatedMLP`."""

    def __init__(self, build: Build, hidden: int, width: int, activation: str, *, bias: bool) -> None:
        super().__init__()
        self._activate = _find(activation, _PLAIN)
        self.up_proj = ColumnLinear(build, hidden, {None: width}, bias=bias)
        self.down_proj = RowLinear(build, width, hidden, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self._activate(self.up_proj(x)))


def _find(activation: str, known: Mapping[str, _Function]) -> _Function:
    if activation not in known:
        raise ConfigError(
            f"config.json: hidden_act {activation!r} is not supported; supported: {', '.join(sorted(known))}",
            param="hidden_act",
        )
    return known[activation]
