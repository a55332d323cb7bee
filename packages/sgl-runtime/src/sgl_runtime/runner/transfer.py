# SPDX-License-Identifier: Apache-2.0
"""Numbers to the device and back, without the host waiting for either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Bytes. Triton compiles a kernel anew for a pointer that is not a multiple of 16.
_ALIGNMENT = 16


def to_device(
    arrays: Mapping[str, NDArray[Any]], dtype: type[np.generic], device: torch.device
) -> dict[str, Tensor]:
    """The arrays, all of one dimension, as tensors of one dtype; one copy for all of them."""
    step = _ALIGNMENT // np.dtype(dtype).itemsize
    sizes = [aligned(array.size, step) for array in arrays.values()]
    packed = torch.from_numpy(np.empty(sum(sizes), dtype))
    if device.type == "cuda":
        packed = packed.pin_memory()
    host = dict(zip(arrays, packed.split(sizes), strict=True))
    for name, array in arrays.items():
        np.copyto(host[name].numpy()[: array.size], array, casting="same_kind")
    if device.type == "cuda":
        packed = packed.to(device, non_blocking=True)
    parts = zip(arrays.items(), packed.split(sizes), strict=True)
    return {name: part[: array.size] for (name, array), part in parts}


def aligned(size: int, step: int = 4) -> int:
    """The next multiple of `step`, by default of so many 32-bit numbers that another array may follow."""
    return -(-size // step) * step


def to_host(x: Tensor) -> Tensor:
    """`x` on the CPU; from a CUDA device, its values are there when an event recorded after this call is."""
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
