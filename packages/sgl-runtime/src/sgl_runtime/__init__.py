# SPDX-License-Identifier: Apache-2.0
"""A serving system for large language models: `sgl-runtime serve`, or `serve(ServeConfig(...))`."""

from __future__ import annotations

from importlib.metadata import version

from sgl_runtime.config import ServeConfig
from sgl_runtime.launch import serve

__version__ = version("sgl-runtime")

__all__ = ["ServeConfig", "__version__", "serve"]
