# SPDX-License-Identifier: Apache-2.0
"""With SGL_CONSTRAIN_NATIVE=1 in the environment the wheel has the twin in C; without it, it is pure."""

from __future__ import annotations

import os
import runpy
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeHook(BuildHookInterface[Any]):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if os.environ.get("SGL_CONSTRAIN_NATIVE") != "1" or version == "editable":
            return
        self._folder = tempfile.TemporaryDirectory()
        made = runpy.run_path(str(Path(self.root) / "build_native.py"))["build"](self._folder.name)
        build_data["force_include"][str(made)] = f"sgl_constrain/{made.name}"
        build_data["pure_python"] = False
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()
