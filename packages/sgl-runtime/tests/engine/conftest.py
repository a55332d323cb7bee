# SPDX-License-Identifier: Apache-2.0
"""Tests marked `anyio` run on asyncio, which is what the server runs on."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
