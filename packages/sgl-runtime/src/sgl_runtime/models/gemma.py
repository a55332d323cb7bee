# SPDX-License-Identifier: Apache-2.0
"""Gemma: Llama with norms around 1, a GELU gate, and embeddings scaled by the root of their width, which the
logits use too."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from sgl_runtime.layers import Build, GatedMLP, GemmaRMSNorm
from sgl_runtime.models import llama

_ACTIVATION = "gelu_pytorch_tanh"


class GemmaForCausalLM(llama.LlamaForCausalLM):
    tied: ClassVar = True

    def decoder(self, build: Build) -> llama.Decoder:
        return llama.Decoder(build, self.block, self.norm(build), embedding_scale=embedding_scale(build))

    def norm(self, build: Build) -> nn.Module:
        return GemmaRMSNorm(build, build.config.hidden_size, build.config.norm_eps)

    def mlp(self, build: Build, layer: int) -> nn.Module:
        c = build.config
        # The first configs said "gelu" under hidden_act and meant this one.
        activation = c.own.string("hidden_activation", _ACTIVATION)
        return GatedMLP(build, c.hidden_size, c.intermediate_size, activation, bias=False)


def embedding_scale(build: Build) -> float:
    """Rounded to the dtype of the activations, as it was in training."""
    return float(torch.tensor(build.config.hidden_size**0.5, dtype=build.dtype))


TINY = llama.TINY | {
    "model_type": "gemma",
    "architectures": ["GemmaForCausalLM"],
    "hidden_act": "gelu_pytorch_tanh",
    "head_dim": 24,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
}
