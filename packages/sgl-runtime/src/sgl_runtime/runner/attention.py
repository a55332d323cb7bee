# SPDX-License-Identifier: Apache-2.0
"""Which attention backend a model runs on here, by what was asked for and what there is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sgl_kernels import AttentionBackend, AttentionSpec, load_attention

from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError


def choose_attention(
    config: ServeConfig, specs: Sequence[AttentionSpec], device: torch.device
) -> AttentionBackend:
    """Raises ConfigError, with the reason, if the backend asked for cannot compute this model here."""
    name = None if config.attention_backend == "auto" else config.attention_backend
    if name == "flashinfer" and config.disable_flashinfer:
        raise ConfigError("--attention-backend flashinfer and --disable-flashinfer exclude each other")
    try:
        return load_attention(name, specs, device)
    except ValueError as error:
        raise ConfigError(f"--attention-backend: {error}", param="attention_backend") from error
