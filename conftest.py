# SPDX-License-Identifier: Apache-2.0
"""Where there is no GPU, Triton interprets its kernels on the CPU.

It reads the variable when it is imported, which other packages do on their own, so it is set before any test
is collected.
"""

from __future__ import annotations

import os
from pathlib import Path

if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
