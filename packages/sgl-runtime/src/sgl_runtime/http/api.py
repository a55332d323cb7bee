# SPDX-License-Identifier: Apache-2.0
"""`Api`: all that an endpoint may know, as one value. An endpoint is a function of it and of a request."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.config import ServeConfig
from sgl_runtime.engine.client import EngineClient
from sgl_runtime.engine.prepare import Preparation
from sgl_runtime.http.openai.batches.storage import Storage
from sgl_runtime.http.openai.responses.store import ResponseBook
from sgl_runtime.messages import Capacity
from sgl_runtime.text.answer.dialect import Dialect
from sgl_runtime.text.chat import ChatTemplate
from sgl_runtime.text.tokenizer import Tokenizer


def name_of(config: ServeConfig, path: Path) -> str:
    """What the model at `path` is called."""
    return config.served_model_name or config.model_path or path.stem


@dataclass(frozen=True)
class Api:
    config: ServeConfig
    model: ModelConfig
    path: Path  # where the model lies
    limits: Capacity  # of one request
    capacities: list[Capacity]  # of each replica
    client: EngineClient
    preparation: Preparation
    tokenizer: Tokenizer | None  # None: requests and answers are token ids
    chat_template: ChatTemplate | None
    dialect: Dialect | None  # of the model's answers in a chat; None without a template
    storage: Storage
    responses: ResponseBook
    started: float = field(default_factory=time.time)  # on the wall clock, which may jump
    awake: float = field(default_factory=time.monotonic)  # the same on a clock that does not

    @property
    def model_path(self) -> str:
        return self.config.model_path or str(self.path)

    @property
    def model_name(self) -> str:
        """The name in /v1/models."""
        return name_of(self.config, self.path)

    @property
    def model_names(self) -> set[str]:
        """All names by which a request may call the model."""
        return {"default", self.model_name, self.model_path, str(self.path)}
