# SPDX-License-Identifier: Apache-2.0
"""Launches that overlap: a kernel's programs are there, and wait, before the kernel ahead of it has ended.

Programmatic dependent launch, of Hopper GPUs and later ones: it hides what a launch takes, which for a short
kernel is most of its time. A kernel calls `begin` before it touches memory, and is launched with
`overlapping(device)`. Whoever waits here has what every kernel before it has written, because each of those
waited too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from sgl_kernels._backend import capability

# Each program pays for waiting: with more programs that is more than is hidden (measured on an H200 with
# 115,000: 187 us, 170 without).
_MOST = 8192


@triton.jit
def begin(OVERLAP: tl.constexpr):
    """Lets the next kernel's programs come, waits for the end of the kernel before this one."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def wait(OVERLAP: tl.constexpr):
    """Waits as `begin` does, but the next kernel's programs come when this one has ended: for what a later
    kernel reads before it waits itself (the slots of a step)."""
    if OVERLAP:
        gdc_wait()


def overlapping(device: torch.device, programs: int = 0) -> dict[str, Any]:
    """The arguments of a launch on this device, of so many programs if that may be too many to overlap."""
    if programs <= _MOST and capability(device) >= (9, 0):
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}
