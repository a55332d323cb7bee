# SPDX-License-Identifier: Apache-2.0
"""Kernels run in Triton's interpreter, on the CPU; the conftest of the root asks for it early enough."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed")
