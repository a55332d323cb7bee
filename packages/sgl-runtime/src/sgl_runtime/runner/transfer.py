# SPDX-License-Identifier: Apache-2.0
"""Numbers to the device and back, without the host waiting for either."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(
    arrays: Mapping[str, NDArray[Any]], dtype: type[np.generic], device: torch.device
) -> dict[str, Tensor]:
    """The arrays, all of one dimension, as tensors of one dtype; one copy for all of them."""
    packed = torch.from_numpy(np.concatenate(list(arrays.values()), dtype=dtype, casting="same_kind"))
    if device.type == "cuda":
        packed = packed.pin_memory().to(device, non_blocking=True)
    return dict(zip(arrays, packed.split([array.size for array in arrays.values()]), strict=True))


def to_host(x: Tensor) -> Tensor:
    """`x` on the CPU; from a CUDA device, its values are there when an event recorded after this call is."""
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
