# SPDX-License-Identifier: Apache-2.0
"""What this machine has, and which implementation of the operations a device gets. The only place that asks.

Chosen once for a process, when the first tensor of a kind of device arrives: Triton kernels on CUDA devices
where Triton is installed, the torch reference everywhere else. The environment variable SGL_KERNELS_BACKEND
(auto, triton, reference) overrides the choice. Attention has backends of its own to choose from and asks here
only what can be used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from types import MappingProxyType, ModuleType

import torch

_VARIABLE = "SGL_KERNELS_BACKEND"
_CHOICES = ("auto", "triton", "reference")


@dataclass(frozen=True)
class Availability:
    """Whether an implementation can be used on this machine, and in one sentence why or why not."""

    usable: bool
    reason: str


@cache
def available() -> Mapping[str, Availability]:
    """`reference`, `triton` and `flashinfer`: what can be used here, and why or why not.

    Imports none of them. Raises ValueError if SGL_KERNELS_BACKEND holds something unknown, or asks for
    what cannot be used.
    """
    asked = os.environ.get(_VARIABLE, "auto")
    if asked not in _CHOICES:
        raise ValueError(f"{_VARIABLE} must be one of {', '.join(_CHOICES)}, not {asked!r}")
    found = {
        "reference": Availability(True, "torch, on any device"),
        "triton": _triton(),
        "flashinfer": _flashinfer(),
    }
    if asked == "triton" and not found["triton"].usable:
        raise ValueError(f"{_VARIABLE} asks for triton, which cannot be used here: {found['triton'].reason}")
    if asked == "reference":
        switched_off = Availability(False, f"switched off by {_VARIABLE}=reference")
        found |= {"triton": switched_off, "flashinfer": switched_off}
    return MappingProxyType(found)


def fast(operation: str, device: torch.device) -> ModuleType | None:
    """The module of Triton kernels of an operation, or None where `device` gets the reference.

    A function that torch.compile traces gets the reference: the compiler fuses it with what stands around it,
    and cannot look into a launch.
    """
    if torch.compiler.is_compiling():
        return None
    return _kernels(operation) if device.type == "cuda" else None


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a CUDA device; (0, 0) of any other."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


@cache
def _kernels(operation: str) -> ModuleType | None:
    return import_module(f"sgl_kernels._triton.{operation}") if available()["triton"].usable else None


def _triton() -> Availability:
    if not torch.cuda.is_available():
        return Availability(False, "torch finds no CUDA device")
    if find_spec("triton") is None:
        return Availability(False, "the package triton is not installed")
    have = capability(torch.device("cuda"))
    if have < (8, 0):
        return Availability(False, f"needs compute capability 8.0, the device has {have[0]}.{have[1]}")
    return Availability(True, f"triton {version('triton')}, on CUDA devices")


def _flashinfer() -> Availability:
    """It compiles its kernels when they are first used, unless the package of compiled ones is there."""
    if not torch.cuda.is_available():
        return Availability(False, "torch finds no CUDA device")
    try:
        installed = version("flashinfer-python")
    except PackageNotFoundError:
        return Availability(False, "the package flashinfer-python is not installed")
    if find_spec("flashinfer_jit_cache") is None:
        missing = [tool for tool in ("nvcc", "ninja") if shutil.which(tool) is None]
        if missing:
            needs = " and ".join(missing)
            return Availability(
                False, f"flashinfer {installed} compiles its kernels, and finds no {needs} on the PATH"
            )
    return Availability(True, f"flashinfer {installed}, on CUDA devices")
