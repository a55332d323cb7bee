# SPDX-License-Identifier: Apache-2.0
"""Command R7B and Command A: Command-R with a sliding window in three of four layers, and no rotation in the
fourth."""

from __future__ import annotations

from torch import Tensor, nn

from sgl_runtime.layers import Build, Inputs, Rotation
from sgl_runtime.models import cohere, llama

_FULL_EVERY = 4


class Attention(llama.Attention):
    def __init__(self, build: Build, layer: int) -> None:
        super().__init__(build, layer, window=build.config.window(layer, full_every=_FULL_EVERY))
        self._near = build.config.slides(layer, full_every=_FULL_EVERY)

    def forward(self, x: Tensor, rotation: Rotation | None, inputs: Inputs) -> Tensor:
        return super().forward(x, rotation if self._near else None, inputs)


class Cohere2ForCausalLM(cohere.CohereForCausalLM):
    def attention(self, build: Build, layer: int) -> nn.Module:
        return Attention(build, layer)


TINY = {name: value for name, value in cohere.TINY.items() if name != "use_qk_norm"} | {
    "model_type": "cohere2",
    "architectures": ["Cohere2ForCausalLM"],
    "sliding_window": 32,
    "layer_types": ["sliding_attention", "full_attention"],
}
