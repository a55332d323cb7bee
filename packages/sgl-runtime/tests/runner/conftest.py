# SPDX-License-Identifier: Apache-2.0
"""Makes `driver` and the tool that writes tiny checkpoints importable, and writes each checkpoint once."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

_HERE = Path(__file__).parent


def _load(name: str, file: Path) -> None:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)


_load("tiny_checkpoint", _HERE.parents[3] / "tools" / "tiny_checkpoint.py")
_load("driver", _HERE / "driver.py")


# Tiny models, and perhaps many tests at once: a second thread would mostly wait for the first.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama; read-only."""
    folder: Path = sys.modules["tiny_checkpoint"].write_checkpoint(tmp_path_factory.mktemp("tiny"))
    return folder


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
