# SPDX-License-Identifier: Apache-2.0
"""Qwen 3: Llama whose queries and keys are normalised head by head before they rotate."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sgl_runtime.layers import Build, HeadRMSNorm
from sgl_runtime.models import llama


class Attention(llama.Attention):
    """options: as `llama.Attention`'s. gemma: the factor of the norms is 1 + weight."""

    def __init__(self, build: Build, layer: int, *, gemma: bool = False, **options: Any) -> None:
        super().__init__(build, layer, **options)
        c = build.config
        self.q_norm = HeadRMSNorm(build, c.head_dim, c.norm_eps, gemma=gemma)
        self.k_norm = HeadRMSNorm(build, c.head_dim, c.norm_eps, gemma=gemma)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv_proj.split(x)
        return self.q_norm(q), self.k_norm(k), v


class Qwen3ForCausalLM(llama.LlamaForCausalLM):
    def attention(self, build: Build, layer: int) -> nn.Module:
        return Attention(build, layer, window=build.config.window(layer))


TINY = llama.TINY | {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}
