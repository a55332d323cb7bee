# SPDX-License-Identifier: Apache-2.0
"""The tensors of a checkpoint, under their published names, read one at a time.

A folder of safetensors or .bin files (one, or several with an index), a GGUF file, or random numbers. Files
are memory-mapped: a tensor costs memory when its bytes are touched. Which parameter takes which tensor is
not known here.
"""

from __future__ import annotations

import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sgl_runtime.checkpoint.gguf import GGUFFile
from sgl_runtime.errors import ConfigError

_DUMMY_STD = 0.02
_DUMMY_TABLE = 1 << 23  # numbers


@dataclass(frozen=True)
class StoredTensor:
    name: str
    read: Callable[[], Tensor]  # the whole tensor, on the CPU unless it is a dummy


def stored_tensors(path: Path, load_format: str) -> list[StoredTensor]:
    """Every tensor of the checkpoint at `path`, a folder or a .gguf file; `load_format` as in `ServeConfig`.

    Raises ConfigError, naming the file, when files are missing, damaged or not of the asked format.
    """
    if path.is_file():
        if load_format not in ("auto", "gguf"):
            raise ConfigError(
                f"{path} is a single file, --load-format {load_format} reads a folder", param="load_format"
            )
        return _gguf(path)
    if load_format == "gguf":
        raise ConfigError(
            f"--load-format gguf: {path} is a folder; give the .gguf file itself", param="load_format"
        )
    asked = [kind for kind in _FOLDERS if load_format in ("auto", kind)]
    for kind in asked:
        stem, suffix, reader = _FOLDERS[kind]
        if files := _weight_files(path, stem, suffix):
            return [tensor for file in files for tensor in reader(file)]
    names = " or ".join(f"{stem}*{suffix}" for stem, suffix, _ in map(_FOLDERS.__getitem__, asked))
    raise ConfigError(f"{path} holds no weights ({names})", param="load_format")


def dummy_tensors(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, device: torch.device
) -> list[StoredTensor]:
    """Random tensors of these names and shapes; the same on every run and rank for the same kind of device.

    Matrices are normal with a standard deviation of 0.02, biases too; other vectors, which scale norms, are
    ones. Drawing billions of numbers takes minutes on a CPU, so all tensors are views of one table of
    millions: rows are windows that move along it, from a place that the tensor's name decides. They take no
    memory, and to copy one costs what writing does.
    """
    generator = torch.Generator(device).manual_seed(0)
    table = torch.empty(_DUMMY_TABLE, device=device).normal_(0.0, _DUMMY_STD, generator=generator).to(dtype)
    return [StoredTensor(name, partial(_random, name, shape, table)) for name, shape in shapes.items()]


def _random(name: str, shape: tuple[int, ...], table: Tensor) -> Tensor:
    if len(shape) == 1 and not name.endswith(".bias"):
        return table.new_ones(shape)
    *outer, width = shape
    rows = math.prod(outer)
    step = max(1, (len(table) - width) // (2 * rows))  # from one row to the next
    room = len(table) - (rows - 1) * step - width
    assert room >= 0, f"{name} has more rows than there are windows"
    strides = [step * math.prod(outer[place + 1 :]) for place in range(len(outer))] + [1]
    return table.as_strided(shape, strides, zlib.crc32(name.encode()) % (room + 1))


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor -> file


def _weight_files(folder: Path, stem: str, suffix: str) -> list[Path]:
    """The files that the index names, or without one all that are called like weights.

    Raises ConfigError if the index is not one, or names a file that is not there.
    """
    index = folder / f"{stem}{suffix}.index.json"
    if not index.is_file():
        return sorted(folder.glob(f"{stem}*{suffix}"))
    try:
        files = msgspec.json.decode(index.read_bytes(), type=_Index).weight_map.values()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{index} is not an index of weight files: {error}") from error
    names = sorted(set(files))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise ConfigError(f"{index} names files that are not there: {', '.join(absent)}")
    return [folder / name for name in names]


def _safetensors(file: Path) -> list[StoredTensor]:
    try:
        opened = safe_open(file, framework="pt", device="cpu")
        names = list(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error
    return [StoredTensor(name, partial(opened.get_tensor, name)) for name in names]


def _bin(file: Path) -> list[StoredTensor]:
    try:
        # Files of torch's format before 1.6 are no zip archives and cannot be mapped.
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise _damaged(file, error) from error
    if not (isinstance(tensors, dict) and all(isinstance(value, Tensor) for value in tensors.values())):
        raise ConfigError(f"{file} does not hold a dictionary of tensors")
    return [StoredTensor(name, partial(tensors.__getitem__, name)) for name in tensors]


def _gguf(file: Path) -> list[StoredTensor]:
    def read(dequantise: Callable[[], NDArray[np.float32]]) -> Tensor:
        return torch.from_numpy(dequantise())

    return [StoredTensor(name, partial(read, dequantise)) for name, dequantise in GGUFFile(file).tensors()]


def _damaged(file: Path, error: Exception) -> ConfigError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ConfigError(f"{file} is damaged or incomplete ({reason}); fetch it again")


# In order of preference: how the files of a folder begin and end, and how one is read.
_FOLDERS: Mapping[str, tuple[str, str, Callable[[Path], list[StoredTensor]]]] = MappingProxyType(
    {"safetensors": ("model", ".safetensors", _safetensors), "pt": ("pytorch_model", ".bin", _bin)}
)
