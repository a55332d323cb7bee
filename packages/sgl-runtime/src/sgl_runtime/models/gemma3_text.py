# SPDX-License-Identifier: Apache-2.0
"""Gemma 3, text alone: Gemma 2 with normalised heads in place of soft caps, five layers with a sliding window
for each one without, and a RoPE of their own for those with it."""

from __future__ import annotations

from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, Inputs, Rotary, Rotation
from sgl_runtime.models import gemma, gemma2, llama, qwen3

_FULL_EVERY = 6


class Rotaries(nn.Module):
    """[T] positions -> the `Rotation` of layers without a window, and of those with one."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self._everywhere = Rotary(build, build.config.rope)
        self._nearby = Rotary(build, build.config.local_rope)

    def forward(self, positions: Tensor) -> tuple[Rotation, Rotation]:
        return self._everywhere(positions), self._nearby(positions)


class Block(gemma2.Block):
    """near: does this layer have a sliding window?"""

    def __init__(self, *parts: nn.Module, near: bool) -> None:
        super().__init__(*parts)
        self._near = near

    def forward(  # type: ignore[override]
        self, x: Tensor, residual: Tensor | None, rotations: tuple[Rotation, Rotation], inputs: Inputs
    ) -> tuple[Tensor, Tensor]:
        return super().forward(x, residual, rotations[self._near], inputs)


class Gemma3ForCausalLM(gemma2.Gemma2ForCausalLM):
    def __init__(self, build: Build) -> None:
        if build.config.raw.get("use_bidirectional_attention"):
            raise ConfigError(
                "config.json: use_bidirectional_attention cannot be served: only causal models generate",
                param="use_bidirectional_attention",
            )
        super().__init__(build)

    def decoder(self, build: Build) -> llama.Decoder:
        return llama.Decoder(
            build,
            self.block,
            self.norm(build),
            rotary=Rotaries(build),
            embedding_scale=gemma.embedding_scale(build),
        )

    def block(self, build: Build, layer: int) -> nn.Module:
        return Block(
            self.norm(build),
            self.attention(build, layer),
            self.norm(build),
            self.norm(build),
            self.mlp(build, layer),
            self.norm(build),
            near=build.config.slides(layer, full_every=_FULL_EVERY),
        )

    def attention(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        return qwen3.Attention(
            build,
            layer,
            gemma=True,
            scale=c.own.number("query_pre_attn_scalar", c.head_dim) ** -0.5,
            window=c.window(layer, full_every=_FULL_EVERY),
        )


TINY = {name: value for name, value in gemma2.TINY.items() if "softcapping" not in name} | {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3ForCausalLM"],
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}
