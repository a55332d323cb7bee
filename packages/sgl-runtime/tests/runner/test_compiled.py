# SPDX-License-Identifier: Apache-2.0
"""Once a server is warm, no request makes Triton compile, which would stop all others for seconds."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="there is no compiler")
def test_nothing_is_compiled_late() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    program = [sys.executable, str(Path(__file__).with_name("compiled_late.py"))]
    ran = subprocess.run(program, capture_output=True, text=True, env=environment, timeout=300)
    assert ran.returncode == 0, ran.stderr
    for model, late in json.loads(ran.stdout).items():
        assert late.pop("warm"), f"{model}: nothing is compiled at all"
        assert late == {"passes": [], "draws": []}, model
