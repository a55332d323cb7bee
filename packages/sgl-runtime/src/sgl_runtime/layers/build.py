# SPDX-License-Identifier: Apache-2.0
"""`Build`: everything the constructor of a layer may know."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.checkpoint.division import HeadShare, Span, share, share_heads
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.quantization import Quantization


@dataclass(frozen=True)
class Build:
    config: ModelConfig
    tp: TensorParallel
    quantization: Quantization
    dtype: torch.dtype
    device: torch.device  # where parameters are allocated; `meta` to learn their sizes alone
    context_length: int  # positions that will be asked for

    def share(self, total: int) -> Span:
        """This rank's balanced share of a width."""
        return share(total, self.tp.rank, self.tp.size)

    def heads(self, heads: int, kv_heads: int) -> HeadShare:
        """This rank's query heads and the KV heads they attend to."""
        return share_heads(heads, kv_heads, self.tp.rank, self.tp.size)
