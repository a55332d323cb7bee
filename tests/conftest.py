# SPDX-License-Identifier: Apache-2.0
"""Servers and checkpoints for the tests that need more than one package."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults import Faults
from live import ROOT, SERVE, START_S, Server, running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--parity-full", action="store_true", help="compare with transformers in every setting")
    parser.addoption("--faults-full", action="store_true", help="inject the large faults in their full size")
    parser.addoption("--faults-table", type=Path, help="where to write what came of the faults")


@pytest.fixture(scope="session")
def demonstration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server that a newcomer starts: no flags but the port, and a folder that goes away."""
    with running("--file-storage-path", str(tmp_path_factory.mktemp("files"))) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random two-layer llama and a byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    subprocess.run(
        [sys.executable, ROOT / "tools" / "tiny_checkpoint.py", folder], check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="session")
def faults(request: pytest.FixtureRequest) -> Iterator[Faults]:
    faults = Faults(full=request.config.getoption("--faults-full"))
    yield faults
    if path := request.config.getoption("--faults-table"):
        faults.write(path)


@pytest.fixture
def refusal() -> Callable[..., str]:
    """Runs `sgl-runtime serve` with flags that cannot work; returns the one line it says."""

    def refuse(*flags: str) -> str:
        done = subprocess.run([*SERVE, *flags], capture_output=True, text=True, timeout=START_S, cwd=ROOT)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith("sgl-runtime: error: ")][-1]

    return refuse
