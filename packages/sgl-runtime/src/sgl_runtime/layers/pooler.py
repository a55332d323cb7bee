# SPDX-License-Identifier: Apache-2.0
"""From the hidden states of last tokens to what a model answers that generates no text: an embedding, or the
scores of classes. In float32, since their users compare them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sgl_runtime.layers.build import Build
from sgl_runtime.parallel.shard import Part, Shard


def normalise(hidden: Tensor) -> Tensor:
    """[rows, hidden] -> the same, float32, each of length 1."""
    return functional.normalize(hidden.float(), dim=-1)


class ClassHead(nn.Module):
    """[rows, hidden] -> [rows, classes] float32: a linear map without bias, whole on every rank."""

    def __init__(self, build: Build, hidden: int, classes: int) -> None:
        super().__init__()
        self.weight = Shard(((Part.whole(classes),), (Part.whole(hidden),)), build.dtype, build.device)

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight).to(torch.float32)
