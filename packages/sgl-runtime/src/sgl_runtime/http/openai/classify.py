# SPDX-License-Identifier: Apache-2.0
"""`POST /v1/classify`: how likely each class is, of a model that scores classes. The shape is vLLM's.

Scores become probabilities as the model was trained: by softmax where classes exclude each other, by the
logistic function where there is one class or they do not, and not at all for a regression.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, TypedDict
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.types import ASGIApp

from sgl_runtime.engine.prefill import prompt_tokens
from sgl_runtime.http.api import Api
from sgl_runtime.http.errors import json_response
from sgl_runtime.http.openai.models import UNKNOWN_MODEL, read_request
from sgl_runtime.http.openai.pooled import prepare
from sgl_runtime.http.openai.prompts import Prompts
from sgl_runtime.http.operation import operation
from sgl_runtime.http.prefill import PromptUsage, outputs_of, usage_of, vector_of
from sgl_runtime.http.stream import while_connected
from sgl_runtime.messages import F32

F64: TypeAlias = NDArray[np.float64]


class ClassifyBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    input: Prompts
    model: str = "default"
    user: str | None = None


class Chances(TypedDict):
    """The likeliest class by its name where the model's config has one, and how likely each is."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class Classified(TypedDict):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Chances]
    usage: PromptUsage


_DECODER = msgspec.json.Decoder(ClassifyBody)


@operation(reads=_DECODER, answers=Classified, refuses=UNKNOWN_MODEL, example={"input": "The sun is"})
async def classify(api: Api, request: Request) -> ASGIApp:
    """How likely each class is, for each of some texts."""
    body = await read_request(api, request, _DECODER)
    id = f"classify-{uuid4().hex}"
    prepared = await prepare(api, body.input, id)
    outputs = await while_connected(request.receive, outputs_of(api, prepared))
    answer: Classified = {
        "id": id,
        "object": "list",
        "created": int(time.time()),
        "model": api.model_name,
        "data": [_chances(index, vector_of(output), api.model.raw) for index, output in enumerate(outputs)],
        "usage": usage_of(prompt_tokens(prepared)),
    }
    return json_response(answer)


def _chances(index: int, scores: F32, config: Mapping[str, Any]) -> Chances:
    labels = config.get("id2label")
    best = str(int(scores.argmax()))
    return {
        "index": index,
        "label": str(labels.get(best, best)) if isinstance(labels, dict) else best,
        "probs": _probabilities(scores.astype(np.float64), config.get("problem_type")).tolist(),
        "num_classes": len(scores),
    }


def _probabilities(scores: F64, problem: Any) -> F64:
    if problem == "regression":
        return scores
    if len(scores) == 1 or problem == "multi_label_classification":
        return 1 / (1 + np.exp(-scores))
    likely: F64 = np.exp(scores - scores.max())
    likely /= likely.sum()
    return likely
