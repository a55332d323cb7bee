# SPDX-License-Identifier: Apache-2.0
"""Mixture of experts: a router on every rank, and of each expert this rank's share of its width.

Every rank computes all experts, each a slice of it, so ranks are equally busy whatever is chosen. Shared
experts lie behind the others and are chosen always. Who stores which expert under which name is the model's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from sgl_kernels import fused_experts, route, with_shared_experts
from sgl_kernels.moe import Activation
from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.linear import Linear
from sgl_runtime.parallel.shard import Part, Shard
from sgl_runtime.quantization import LinearShape

_ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "silu": "silu",
        "swish": "silu",
        "gelu": "gelu",
        **dict.fromkeys(("gelu_pytorch_tanh", "gelu_new", "gelu_fast"), "gelu_tanh"),
    }
)


class Router(Linear):
    """[T, hidden] -> weights [T, top_k] float32 and experts [T, top_k] int32 of each token.

    options: as `sgl_kernels.route`'s, without the bias. precise: logits are computed in float32. biased: a
    checkpoint has `e_score_correction_bias`, which counts for the choice alone. Raises ConfigError if there
    are fewer experts to choose from than each token goes to.
    """

    e_score_correction_bias: Shard | None

    def __init__(
        self,
        build: Build,
        hidden: int,
        experts: int,
        top_k: int,
        *,
        precise: bool = False,
        biased: bool = False,
        **options: Any,
    ) -> None:
        self._dtype = torch.float32 if precise else build.dtype
        shape = LinearShape(Part.whole(hidden), (Part.whole(experts),))
        super().__init__(replace(build, dtype=self._dtype), shape, bias=False)
        bias = Shard(((Part.whole(experts),),), torch.float32, build.device) if biased else None
        self.register_parameter("e_score_correction_bias", bias)
        self.top_k = top_k
        self._options = options
        groups, kept = options.get("groups", 1), options.get("kept_groups", 1)
        if experts % groups or kept > groups:
            raise ConfigError(
                f"config.json: {kept} of {groups} groups of {experts} experts cannot be chosen",
                param="n_group",
            )
        if top_k > experts // groups * kept:
            raise ConfigError(
                f"config.json: num_experts_per_tok is {top_k}, and a token chooses from "
                f"{experts // groups * kept} experts",
                param="num_experts_per_tok",
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # chooses by the product
        logits = super().forward(x.to(self._dtype))
        return route(logits, self.top_k, bias=self.e_score_correction_bias, **self._options)


class ExpertStack(nn.Module):
    """Matrices of the same form, one for each expert: `weight` [experts x rows, columns], `stacked` [experts,
    rows, columns].

    parts: of the rows, all of one expert and then all of the next, named as `Model.packed` has them.
    """

    def __init__(self, build: Build, experts: int, parts: Iterable[Part], columns: Part) -> None:
        super().__init__()
        self.weight = Shard((tuple(parts), (columns,)), build.dtype, build.device)
        self._experts = experts

    @property
    def stacked(self) -> Tensor:
        return self.weight.unflatten(0, (self._experts, -1))


class MoE(nn.Module):
    """[T, hidden] -> [T, hidden], summed over the ranks: what each token's experts make of it, weighted.

    gate: chooses among `experts` of the given width. shared: of that width too, so many go to every token;
    the gate `shared_expert_gate`, if there is one, weighs them. Raises ConfigError on an activation that
    experts do not have.
    """

    shared_expert_gate: Linear | None

    def __init__(
        self,
        build: Build,
        gate: Router,
        hidden: int,
        experts: int,
        width: int,
        activation: str,
        *,
        shared: int = 0,
        shared_gate: bool = False,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(
                f"config.json: hidden_act {activation!r} is not supported for experts; "
                f"supported: {', '.join(sorted(_ACTIVATIONS))}",
                param="hidden_act",
            )
        self._activation = _ACTIVATIONS[activation]
        self._experts, self._shared, self._tp = experts, shared, build.tp
        own, every = build.share(width), range(experts + shared)
        rows = (Part(width, own, f"{kind}.{expert}") for expert in every for kind in ("gate", "up"))
        self.gate = gate
        self.gate_up_experts = ExpertStack(build, len(every), rows, Part.whole(hidden))
        rows = (Part.whole(hidden, f"down.{expert}") for expert in every)
        self.down_experts = ExpertStack(build, len(every), rows, Part(width, own))
        # Multiplications that a token costs.
        self.products = 3 * hidden * own.length * (gate.top_k + shared)
        self.shared_expert_gate = (
            Linear(build, LinearShape(Part.whole(hidden), (Part.whole(1),)), bias=False)
            if shared_gate
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        weights, experts = self.gate(x)
        if self._shared:
            weight = self.shared_expert_gate
            share = None if weight is None else weight(x).float().sigmoid_().squeeze(1)
            weights, experts = with_shared_experts(weights, experts, self._experts, self._shared, share)
        out = fused_experts(
            x,
            self.gate_up_experts.stacked,
            self.down_experts.stacked,
            weights,
            experts,
            activation=self._activation,
        )
        return self._tp.all_reduce(out)
