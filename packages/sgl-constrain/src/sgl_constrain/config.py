# SPDX-License-Identifier: Apache-2.0
"""What the environment says. Read here and nowhere else.

SGL_CONSTRAIN_PURE   set to anything but 0: the native twin is not used, though it may be installed
"""

from __future__ import annotations

import os


def pure_only() -> bool:
    return os.environ.get("SGL_CONSTRAIN_PURE", "0") not in ("", "0")
