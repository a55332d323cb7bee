# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: the angles of all tokens once per pass, their application once per layer.

The frequencies do not depend on the lengths in a batch: what is in the KV cache was rotated with the same
ones.
"""

from __future__ import annotations

from typing import NamedTuple

from sgl_kernels import apply_rope, rope_frequencies, rope_table
from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build


class Rotation(NamedTuple):
    """Where the tokens of one pass are, as the cosines and sines that `apply_rope` takes."""

    cos: Tensor  # [T, rotary_dim]
    sin: Tensor  # [T, rotary_dim]

    def apply(self, q: Tensor, k: Tensor) -> None:
        """Rotate q [T, heads, head_dim] and k [T, KV heads, head_dim] in place."""
        apply_rope(q, k, self.cos, self.sin)


class Rotary(nn.Module):
    """[T] positions below `build.context_length` -> `Rotation`, looked up in a table.

    Raises ConfigError if the config's rope_scaling is unknown or incomplete.
    """

    def __init__(self, build: Build, head_dim: int) -> None:
        super().__init__()
        config = build.config
        try:
            frequencies, factor = rope_frequencies(
                head_dim,
                config.rope_theta,
                config.rope_scaling,
                config.raw.get("max_position_embeddings", config.context_length),
                context_length=build.context_length,
            )
        except ValueError as error:
            raise ConfigError(f"config.json: {error}", param="rope_scaling") from error
        cos, sin = rope_table(frequencies, factor, build.context_length, dtype=build.dtype)
        self._cos, self._sin = (
            cos.to(build.device),
            sin.to(build.device),
        )  # no parameters: no checkpoint fills them

    def forward(self, positions: Tensor) -> Rotation:
        return Rotation(self._cos.index_select(0, positions), self._sin.index_select(0, positions))
