# SPDX-License-Identifier: Apache-2.0
"""Makes `driver`, `pair` and the tool that writes tiny checkpoints importable."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

_TESTS = Path(__file__).parents[1]


def _load(name: str, file: Path) -> Any:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_load("tiny_checkpoint", _TESTS.parents[2] / "tools" / "tiny_checkpoint.py")
_load("driver", _TESTS / "runner" / "driver.py")
for _name in ("plain_parts", "plain_experts", "plain"):
    _load(_name, Path(__file__).with_name(f"{_name}.py"))
_pair = _load("pair", _TESTS / "parallel" / "pair.py")


# Tiny models, and perhaps many tests at once: a second thread would mostly wait for the first.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair() -> Iterator[Any]:
    yield _pair.open_pair()
    _pair.close_pair()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
