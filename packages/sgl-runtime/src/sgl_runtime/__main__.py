# SPDX-License-Identifier: Apache-2.0
"""`python -m sgl_runtime serve …`"""

from __future__ import annotations

from sgl_runtime.cli import main

if __name__ == "__main__":
    main()
