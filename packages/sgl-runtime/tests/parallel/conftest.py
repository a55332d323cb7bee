# SPDX-License-Identifier: Apache-2.0
"""Makes `pair`, two ranks over gloo, importable by that name."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


def _load(name: str, file: Path) -> Any:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


_pair = _load("pair", Path(__file__).with_name("pair.py"))


@pytest.fixture(scope="session")
def pair() -> Iterator[Any]:
    yield _pair.open_pair()
    _pair.close_pair()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
