# SPDX-License-Identifier: Apache-2.0
"""`Passes`: runs the model on a described pass, kernel by kernel.

    ids [4, T] ──► page table, tokens ──► model over the KV pool ──► hidden states of tokens

`graphs` captures what this launches. Who is sampled, and how, is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from sgl_kernels import AttentionBackend, AttentionSpec, PagedLayout
from sgl_kernels.attention import Plan
from torch import Tensor

from sgl_runtime.layers import Inputs, KVPool
from sgl_runtime.profile.spans import OFF, Laps, Phase
from sgl_runtime.runner.assemble import POSITION, ROW, SLOT, Pass, Rows
from sgl_runtime.runner.transfer import aligned, to_device


class Passes:
    """The forward passes of one model over one KV pool."""

    def __init__(
        self,
        model: Callable[[Inputs], Tensor],
        rows: Rows,
        kv: KVPool,
        attention: AttentionBackend,
        specs: Sequence[AttentionSpec],
    ) -> None:
        """model: its forward pass, compiled or not. specs: of its layers."""
        self.rows = rows
        self.kv = kv
        self._model = model
        self._attention = attention
        self._specs = specs
        self._kinds = tuple(dict.fromkeys(specs))
        self.laps: Laps = OFF

    def run(self, step: Pass) -> tuple[Tensor, Tensor]:
        """Kernel by kernel: of the tokens asked for, their rows [w] and hidden states [w, hidden]."""
        device = self.rows.table.device
        wide = torch.empty(4, aligned(step.tokens), dtype=torch.int32, pin_memory=device.type == "cuda")
        wide.numpy()[:, : step.tokens] = step.ids
        ids = wide.to(device, non_blocking=True)[:, : step.tokens]
        inputs = self._inputs(ids, self.plan(ids, step.layout))
        if step.asked is None:
            return ids[ROW], self._model(inputs)
        asked = to_device({"asked": step.asked}, np.int32, device)["asked"]
        of_asked = replace(inputs, asked=asked)
        # Many of one request are better served by its own attention, and a query alone sees none after it.
        if len(step.asked) <= step.requests and self._specs[-1].causal:
            plan = self._attention.plan(step.layout_of(step.asked), self._specs[-1])
            inputs = replace(inputs, last=replace(of_asked, plans=[*inputs.plans[:-1], plan]))
        return ids[ROW].index_select(0, asked), of_asked.only_asked(self._model(inputs))

    def plan(
        self, ids: Tensor, layout: PagedLayout, into: Mapping[AttentionSpec, Plan] | None = None
    ) -> dict[AttentionSpec, Plan]:
        """What the attention of every kind of layer is to do in a pass of tokens ids [4, T] on the device;
        into: plans to be refilled."""
        self.rows.note(ids)
        plans = {
            spec: self._attention.plan(layout, spec, None if into is None else into[spec])
            for spec in self._kinds
        }
        self.laps.lap(Phase.COPY)
        return plans

    def compute(self, ids: Tensor, plans: Mapping[AttentionSpec, Plan]) -> Tensor:
        """The planned pass, ids [4, T] -> [T, hidden]. Safe to capture in a CUDA graph."""
        return self._model(self._inputs(ids, plans))

    def _inputs(self, ids: Tensor, plans: Mapping[AttentionSpec, Plan]) -> Inputs:
        each = [plans[spec] for spec in self._specs]
        tokens = self.rows.tokens(ids)
        return Inputs(tokens, ids[POSITION], ids[SLOT], self.kv, self._attention, each)
