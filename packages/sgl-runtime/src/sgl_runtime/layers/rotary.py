# SPDX-License-Identifier: Apache-2.0
"""Rotary position embedding: where the tokens of a pass are, once; their rotation, once per layer.

The frequencies do not depend on the lengths in a batch: what is in the KV cache was rotated with the same
ones.
"""

from __future__ import annotations

from typing import NamedTuple

from sgl_kernels import rope_frequencies, rope_table
from torch import Tensor, nn

from sgl_runtime.checkpoint.rope import Rope
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers.build import Build


class Rotation(NamedTuple):
    """Where the tokens of one pass are, as the arguments of `sgl_kernels.rope_and_store_kv`."""

    cos: Tensor  # [T, rotary_dim], or of all positions
    sin: Tensor
    positions: Tensor | None  # [T]: which rows of the two; None: token t has row t
    interleaved: bool = False  # dimension 2i turns with 2i + 1, not i with i + rotary_dim / 2


class Rotary(nn.Module):
    """[T] positions below `build.context_length` -> `Rotation`, looked up in a table.

    rope: by default the config's. Raises ConfigError if its scaling is unknown or incomplete.
    """

    def __init__(self, build: Build, rope: Rope | None = None, *, interleaved: bool = False) -> None:
        super().__init__()
        config = build.config
        rope = rope if rope is not None else config.rope
        try:
            frequencies, factor = rope_frequencies(
                rope.rotary_dim,
                rope.theta,
                rope.scaling,
                config.raw.get("max_position_embeddings", config.context_length),
                context_length=build.context_length,
            )
        except ValueError as error:
            raise ConfigError(f"config.json: {error}", param="rope_scaling") from error
        cos, sin = rope_table(
            frequencies, factor, build.context_length, dtype=build.dtype, interleaved=interleaved
        )
        self._cos, self._sin = (
            cos.to(build.device),
            sin.to(build.device),
        )  # no parameters: no checkpoint fills them

        self._interleaved = interleaved

    def forward(self, positions: Tensor) -> Rotation:
        if positions.is_cuda:  # a kernel looks each up where it needs it
            return Rotation(self._cos, self._sin, positions, self._interleaved)
        cos, sin = self._cos.index_select(0, positions), self._sin.index_select(0, positions)
        return Rotation(cos, sin, None, self._interleaved)
