# SPDX-License-Identifier: Apache-2.0
"""From what was asked for and what a checkpoint says to a model with its weights in place.

Decides the dtype, checks that the weights fit before allocating them, and fills them. What runs on the
model is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import torch

from sgl_runtime.checkpoint.config import ModelConfig
from sgl_runtime.checkpoint.division import head_sizes
from sgl_runtime.config import ServeConfig
from sgl_runtime.errors import ConfigError
from sgl_runtime.layers import Build
from sgl_runtime.models import model_class
from sgl_runtime.models.base import Model
from sgl_runtime.parallel.tensor import TensorParallel
from sgl_runtime.quantization import resolve
from sgl_runtime.runner.memory import free_memory, gib
from sgl_runtime.runner.tensors import dummy_tensors, stored_tensors
from sgl_runtime.runner.weights import Progress, fill, places

_NAMED: Mapping[str, torch.dtype] = MappingProxyType(
    {
        "half": torch.float16,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
        "float": torch.float32,
        "float32": torch.float32,
    }
)


def choose_dtype(asked: str, stored: str, device: torch.device) -> torch.dtype:
    """Of weights and activations, for weights stored as `stored`.

    `auto`: bfloat16 stays, all else becomes float16, or on a CPU bfloat16, the only one of the two that a CPU
    multiplies fast.
    """
    if asked != "auto":
        return _NAMED[asked]
    return torch.bfloat16 if stored == "bfloat16" or device.type == "cpu" else torch.float16


def load_model(
    config: ServeConfig, model: ModelConfig, path: Path, tp: TensorParallel, progress: Progress | None
) -> tuple[Model, torch.dtype]:
    """The model on `tp.device`, every parameter filled, and its dtype.

    Raises ConfigError if the model, its weights or its size cannot be served as asked.
    """
    dtype = choose_dtype(config.dtype, model.dtype, tp.device)
    build = Build(
        config=model,
        tp=tp,
        quantization=resolve(model.raw),
        dtype=dtype,
        device=tp.device,
        context_length=config.context_length or model.context_length,
    )
    # Parameters without memory; a table for one position, since tables are computed.
    _check_size(_make(config, replace(build, device=torch.device("meta"), context_length=1)), build)
    built = _make(config, build)
    if built.answers == "embeddings":
        _check_pooling(path)
    wanted = places(built)
    if config.load_format == "dummy":
        shapes = {name: place.shape for name, place in wanted.items()}
        tensors = dummy_tensors(shapes, dtype, tp.device)
    else:
        tensors = stored_tensors(path, config.load_format)
    if config.is_embedding and wanted.keys().isdisjoint(tensor.name for tensor in tensors):
        # Published as the decoder alone.
        tensors = [replace(tensor, name=f"model.{tensor.name}") for tensor in tensors]
    fill(built, tensors, progress)
    return built, dtype


def _make(config: ServeConfig, build: Build) -> Model:
    model = model_class(build.config)(build)
    if config.is_embedding and model.answers == "scores":
        raise ConfigError(
            f"--is-embedding: {build.config.architecture} answers with scores of classes; leave the flag out",
            param="is_embedding",
        )
    if config.is_embedding:
        model.drop_head()
    return model


def _check_pooling(path: Path) -> None:
    """Embeddings here are last tokens': raises ConfigError where sentence-transformers would take others."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return
    try:
        pooling = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}", param="model_path") from None
    prefix = "pooling_mode_"
    modes = [name.removeprefix(prefix) for name, on in pooling.items() if name.startswith(prefix) and on]
    if modes and modes != ["lasttoken"]:
        raise ConfigError(
            f"embeddings of this model are pooled by {', '.join(modes)} ({file.parent.name}/{file.name}), "
            "those of this server are the last token's: serve a model of pooling_mode_lasttoken",
            param="model_path",
        )


def _check_size(model: Model, build: Build) -> None:
    needed = sum(parameter.nbytes for parameter in model.parameters())
    free = free_memory(build.device).free
    if needed <= free:
        return
    remedy = "use a smaller model"
    if build.device.type == "cuda":
        sizes = head_sizes(build.config.heads, build.config.kv_heads)
        enough = next((size for size in sizes if needed * build.tp.size / size < free), None)
        remedy = f"use --tp {enough}" if enough is not None else remedy
    elif build.dtype == torch.float32:
        remedy = "use --dtype bfloat16, which halves it, or a smaller model"
    raise ConfigError(
        f"the weights need {gib(needed)} on {build.device} and {gib(free)} is free; {remedy}",
        param="model_path",
    )
