# SPDX-License-Identifier: Apache-2.0
"""Llama and Mistral as embedding models, such as e5-mistral: the last token's hidden state, of length 1.

They are published as the decoder alone, whose tensors have no `model.` before their names.
"""

from __future__ import annotations

from typing import ClassVar

from sgl_runtime.layers import Build
from sgl_runtime.messages import Answers
from sgl_runtime.models import llama
from sgl_runtime.models.base import Model


class LlamaModel(llama.LlamaForCausalLM):
    answers: Answers = "embeddings"
    paths: ClassVar = {
        "model.embed_tokens": "embed_tokens",
        "model.layers": "layers",
        "model.norm": "norm",
    }

    def __init__(self, build: Build) -> None:
        Model.__init__(self, build)  # no logits
        self.model = self.decoder(build)


class MistralModel(LlamaModel):
    """The same; its window follows the config."""


class LlamaEmbeddingModel(LlamaModel):
    """The same under the name that other servers use."""
