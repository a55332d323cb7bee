# SPDX-License-Identifier: Apache-2.0
"""Memory that a process holds and does not need, given back while nothing is asked of it.

Two things hold it. Cycles wait for a full collection of Python's, which stops a step for a tenth of a second
and more, and finds nothing in what is made for a request: those are left to quiet moments, and torch and the
vocabulary out of them. And the C library keeps what was freed between pieces that live on, a grammar or a
kernel that oneDNN remembers: only `malloc_trim` returns that, in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import gc

QUIET_S = 2.0  # without a request, before anything is given back: one that comes meanwhile waits for it
_DUE = 10  # collections of the middle generation after which a full one is worth it: Python's own figure
_OVERDUE = 1000  # after which one is made in the middle of the work, for a process that never rests


def settle() -> None:
    """What there is stays, and is not looked through again."""
    gc.collect()
    gc.freeze()
    youngest, middle, _ = gc.get_threshold()
    gc.set_threshold(youngest, middle, _OVERDUE)


def give_back() -> None:
    """Free what nobody refers to, if it may be much, and return free memory to the system."""
    if gc.get_count()[2] > _DUE:
        gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)
