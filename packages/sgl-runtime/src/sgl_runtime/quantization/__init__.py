# SPDX-License-Identifier: Apache-2.0
"""Which weight format a checkpoint has. One file per format; layers know `protocol.Quantization` only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sgl_runtime.errors import ConfigError
from sgl_runtime.quantization.protocol import LinearShape, Quantization
from sgl_runtime.quantization.unquantized import Unquantized

__all__ = ["LinearShape", "Quantization", "resolve"]


def resolve(raw: Mapping[str, Any]) -> Quantization:
    """The format named by `quantization_config.quant_method` of a config.json.

    Raises ConfigError, naming the method, if it is one that is not supported.
    """
    settings = raw.get("quantization_config")
    if not settings:
        return Unquantized()
    method = settings.get("quant_method", "unnamed") if isinstance(settings, Mapping) else settings
    raise ConfigError(
        f"config.json: quantization_config.quant_method {method!r} is not supported; "
        "use the unquantised checkpoint or a GGUF file of this model",
        param="quantization_config",
    )
