# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: where the tokens of a pass are, once; their rotation, once per layer.

The frequencies do not depend on the lengths in a batch: what is in the KV cache was rotated with the same
ones.
"""

from __future__ import annotations

from typing import NamedTuple

from sgl_kernels import rope_frequencies, rope_table
from torch import Tensor, nn

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build


class Rotation(NamedTuple):
    """Where the tokens of one pass are, as the arguments of `sgl_kernels.rope_and_store_kv`."""

    cos: Tensor  # [T, rotary_dim], or of all positions
    sin: Tensor
    positions: Tensor | None  # [T]: which rows of the two; None: token t has row t


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
        if positions.is_cuda:  # a kernel looks each up where it needs it
            return Rotation(self._cos, self._sin, positions)
        return Rotation(self._cos.index_select(0, positions), self._sin.index_select(0, positions), None)
