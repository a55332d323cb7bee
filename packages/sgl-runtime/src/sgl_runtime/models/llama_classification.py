# SPDX-License-Identifier: Apache-2.0
"""Llama as a classifier or a reward model: a linear map of the last token's hidden state."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build, ClassHead
from sgl_runtime.messages import Answers
from sgl_runtime.models import llama
from sgl_runtime.models.base import Model


class LlamaForSequenceClassification(llama.LlamaForCausalLM):
    answers: Answers = "scores"
    skip: tuple[str, ...] = (*llama.LlamaForCausalLM.skip, "lm_head.weight")

    def __init__(self, build: Build) -> None:
        Model.__init__(self, build)  # no logits
        self.model = self.decoder(build)
        self.score = ClassHead(build, build.config.hidden_size, _classes(build))

    def pool(self, hidden: Tensor) -> Tensor:
        return self.score(hidden)


class LlamaForClassification(LlamaForSequenceClassification):
    """Under the names that other servers use."""

    paths: ClassVar = {"score": "classification_head"}


def _classes(build: Build) -> int:
    """`num_labels` is not stored where the classes have names; two classes are not stored at all."""
    own = build.config.own
    if own.has("classification_out_size") or own.has("num_labels"):
        return own.integer(("classification_out_size", "num_labels"))
    names = own.values.get("id2label", {"0": "", "1": ""})
    if not isinstance(names, dict) or not names:
        raise ConfigError(
            f"config.json: id2label must be an object that names classes, not {names!r}", param="id2label"
        )
    return len(names)
