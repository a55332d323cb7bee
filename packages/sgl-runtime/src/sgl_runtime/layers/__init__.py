# SPDX-License-Identifier: Apache-2.0
"""The vocabulary that models are written in.

A layer is built from `Build` (what a constructor may know) and runs on `Inputs` (what one forward pass may
know); there is no other context. Tensors are flat over the tokens of a batch: hidden states are [T,
hidden].
"""

from __future__ import annotations

from sgl_runtime.layers.attention import AttentionSpec, PagedAttention
from sgl_runtime.layers.build import Build
from sgl_runtime.layers.embedding import Embedding
from sgl_runtime.layers.head_norm import HeadLayerNorm, HeadRMSNorm
from sgl_runtime.layers.inputs import Inputs
from sgl_runtime.layers.kv import KVPool
from sgl_runtime.layers.latent import LatentAttention, LatentShape
from sgl_runtime.layers.layer_norm import GemmaRMSNorm, LayerNorm
from sgl_runtime.layers.linear import ColumnLinear, Linear, QKVLinear, RowLinear
from sgl_runtime.layers.logits import LogitsHead
from sgl_runtime.layers.mlp import MLP, GatedMLP
from sgl_runtime.layers.moe import MoE, Router
from sgl_runtime.layers.norm import RMSNorm
from sgl_runtime.layers.pooler import ClassHead, normalise
from sgl_runtime.layers.rotary import Rotary, Rotation

__all__ = [
    "MLP",
    "AttentionSpec",
    "Build",
    "ClassHead",
    "ColumnLinear",
    "Embedding",
    "GatedMLP",
    "GemmaRMSNorm",
    "HeadLayerNorm",
    "HeadRMSNorm",
    "Inputs",
    "KVPool",
    "LatentAttention",
    "LatentShape",
    "LayerNorm",
    "Linear",
    "LogitsHead",
    "MoE",
    "PagedAttention",
    "QKVLinear",
    "RMSNorm",
    "Rotary",
    "Rotation",
    "Router",
    "RowLinear",
    "normalise",
]
