# SPDX-License-Identifier: Apache-2.0
"""How the ranks of one replica find each other: gloo on CPU, NCCL on CUDA, from one address.

Also where a rank computes. Called once per process, before anything is built.
"""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

from sgl_runtime.errors import ConfigError
from sgl_runtime.parallel.tensor import TensorParallel


def choose_device(name: str, index: int = 0) -> torch.device:
    """`cpu`, or for `cuda` and for `auto` where there is one, the index-th CUDA device, made the current one.

    Raises ConfigError if CUDA is asked for and there is none, or not as many devices.
    """
    count = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    if count == 0:
        raise ConfigError("--device cuda: torch finds no CUDA device; use --device cpu", param="device")
    if index >= count:
        raise ConfigError(
            f"this needs CUDA device {index}, and there are {count}; lower --tp or --dp",
            param="tensor_parallel_size",
        )
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    return device


def join(
    address: str, rank: int, size: int, device: torch.device, *, seconds: float = 1800
) -> TensorParallel:
    """Meet the other ranks at `tcp://host:port`, where rank 0 listens. Alone, the address is not used.

    Raises ConfigError if they have not all come within `seconds`, or the address cannot be used.
    """
    if size == 1:
        return TensorParallel.alone(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=address,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=seconds),
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistError as error:  # the store's and the network's errors are of this family
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"rank {rank} of {size} could not meet the others at {address}: {reason}"
        ) from error
    return TensorParallel(rank, size, device, dist.group.WORLD)
