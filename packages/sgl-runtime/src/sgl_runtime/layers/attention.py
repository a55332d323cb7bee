# SPDX-License-Identifier: Apache-2.0
"""Attention over the paged KV pool. How it is computed is the backend's business, not known here."""

from __future__ import annotations

import torch
from sgl_kernels import rope_and_store_kv, store_kv
from sgl_kernels.attention import AttentionSpec
from torch import Tensor, nn

from sgl_runtime.layers.inputs import Inputs
from sgl_runtime.layers.rotary import Rotation

__all__ = ["AttentionSpec", "PagedAttention"]


class PagedAttention(nn.Module):
    """Rotate, store this pass's keys and values, then let every query see its own request up to its position.

    `layer` is the index into the KV pool; `spec` counts this rank's heads.
    """

    def __init__(self, layer: int, spec: AttentionSpec) -> None:
        super().__init__()
        self.layer = layer
        self.spec = spec

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor | None, inputs: Inputs, rotation: Rotation | None = None
    ) -> Tensor:
        """q [T, q_heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, v_dim] -> [w, q_heads * v_dim]
        of the tokens asked for. With a rotation, q and k are used up. Of a latent spec v is None, being a
        part of k."""
        return self._attend(q, k, v, inputs, rotation)

    def untrace(self) -> None:
        """Cut a model here before it is compiled: where parts of one product are written to, as q, k and v
        are, torch.compile takes the length of the first pass for that of all."""
        self._attend = torch.compiler.disable(self._attend)  # type: ignore[method-assign]

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor | None, inputs: Inputs, rotation: Rotation | None
    ) -> Tensor:
        assert (v is None) == self.spec.latent
        k_cache, v_cache = inputs.kv[self.layer]
        store = None if v is None else v_cache
        if rotation is None:
            store_kv(k, v, k_cache, store, inputs.slots)
        else:
            cos, sin, positions, interleaved = rotation
            rope_and_store_kv(
                q,
                k,
                v,
                cos,
                sin,
                k_cache,
                store,
                inputs.slots,
                positions=positions,
                interleaved=interleaved,
            )
        plan = inputs.plans[self.layer]
        return inputs.attention.run(plan, inputs.only_asked(q), k_cache, v_cache).flatten(1)
