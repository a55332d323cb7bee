# SPDX-License-Identifier: Apache-2.0
"""`clients/openai.mjs`, where there are node and OpenAI's client for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SCRIPT = Path(__file__).with_name("clients") / "openai.mjs"


def conforms(url: str) -> None:
    """Every endpoint of the server at `url` is what that client expects."""
    if shutil.which("node") is None or _run("--check").returncode != 0:
        pytest.skip("needs node and `npm install --no-save openai@7` in this repository")
    done = _run(url)
    assert done.returncode == 0, done.stdout + done.stderr


def _run(argument: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["node", _SCRIPT, argument], capture_output=True, text=True)
