# SPDX-License-Identifier: Apache-2.0
"""A Hopper GPU that only takes note of what Triton would compile for it: no launch does anything.

Tensors stay on the CPU, and what a kernel would have written is whatever memory held. Which kernels a model
compiles depends on shapes, dtypes and addresses alone, so that does not matter.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import sgl_kernels
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

_DRIVER = SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
)
_KERNEL = SimpleNamespace(
    launch_metadata=lambda *_: None, run=lambda *_: None, function=None, packed_metadata=None
)
_H200 = SimpleNamespace(multi_processor_count=132, shared_memory_per_block_optin=232_448)


@contextmanager
def hopper() -> Iterator[list[str]]:
    """What is compiled while it lasts, as "kernel: its arguments", in order. Every tensor gets kernels."""
    compiled: list[str] = []
    kernels: set[Any] = set()

    def compile_nothing(kernel: Any, key: Any, signature: Any, device: Any, *rest: Any) -> Any:
        compiled.append(f"{kernel.fn.__qualname__}: {signature} {rest}")
        kernel.device_caches[device][0][key] = _KERNEL
        kernels.add(kernel)
        return _KERNEL

    def kernels_of(operation: str, device: torch.device) -> ModuleType:
        return importlib.import_module(f"sgl_kernels._triton.{operation}")

    for module in pkgutil.walk_packages(sgl_kernels.__path__, "sgl_kernels."):
        if not module.name.startswith("sgl_kernels.bench"):
            importlib.import_module(module.name)
    instead = {"fast": kernels_of, "capability": lambda device: (9, 0)}
    with ExitStack() as stack:
        for module_name, module in list(sys.modules.items()):
            for name, value in instead.items():
                if module_name.startswith("sgl_kernels") and hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", lambda device: _H200))
        stack.enter_context(mock.patch.object(JITFunction, "_do_compile", compile_nothing))
        stack.enter_context(mock.patch.object(driver, "_active", _DRIVER))
        stack.callback(lambda: [kernel.device_caches.clear() for kernel in kernels])
        yield compiled
