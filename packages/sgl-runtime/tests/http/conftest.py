# SPDX-License-Identifier: Apache-2.0
"""Tests marked `anyio` run on asyncio, which is what the server runs on."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-full", action="store_true", help="send the server thousands of requests more")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
