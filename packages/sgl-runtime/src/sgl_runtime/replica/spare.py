# SPDX-License-Identifier: Apache-2.0
"""Memory that a compute process holds and does not need, given back while nothing is asked of it.

Python looks for cycles in what was made since the start: `settle` sets torch and the vocabulary apart, which
a full collection would go through for a tenth of a second, in the middle of a step. The C library keeps what
was freed between pieces that live on, a grammar or a kernel that oneDNN remembers; only `malloc_trim` returns
it.
"""

from __future__ import annotations

import ctypes
import gc


def settle() -> None:
    """What there is stays: it is not looked through again."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Free what nobody refers to, and return free memory to the system: some ten milliseconds."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
