# SPDX-License-Identifier: Apache-2.0
"""The same random tensors in every run."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
