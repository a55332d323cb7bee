# SPDX-License-Identifier: Apache-2.0
"""`GGUFFile`: a GGUF file as a checkpoint in the Hugging Face layout, dequantised.

Tensors keep their place in the mapped file until asked for; then they are float32 arrays with the names,
shapes and row order that a Hugging Face checkpoint of the same model has. Metadata stays in GGUF's own
spelling here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray

from sgl_runtime.checkpoint.gguf_header import StoredTensor, read_header
from sgl_runtime.checkpoint.gguf_names import ARCHITECTURES, Architecture
from sgl_runtime.errors import ConfigError

_ROPE_FACTORS = "rope_freqs.weight"  # no weight: the RoPE scaling of Llama 3.1, which belongs to the config


class GGUFFile:
    """One opened GGUF file; `metadata` has plain Python values under GGUF's keys.

    Raises ConfigError if the file is not readable GGUF or of an architecture without a table.
    """

    metadata: Mapping[str, Any]
    architecture: Architecture

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata, stored, self._data = read_header(path)
        self._stored = {tensor.name: tensor for tensor in stored}
        name = self.metadata.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise ConfigError(
                f"{path}: general.architecture is {name!r}; GGUF files are served of "
                f"{', '.join(ARCHITECTURES)}: give the model's Hugging Face folder instead"
            )
        self.prefix = name
        self.architecture = ARCHITECTURES[name]

    def __contains__(self, name: str) -> bool:
        """Is there a tensor with this GGUF name?"""
        return name in self._stored

    @property
    def rope_factors(self) -> NDArray[np.float32] | None:
        """[head_dim / 2] what each inverse RoPE frequency is divided by, if the file says so (Llama 3.1)."""
        stored = self._stored.get(_ROPE_FACTORS)
        return None if stored is None else self._dequantise(stored)

    @property
    def dtype(self) -> str:
        """The type of the weights as stored; that of quantised ones is what they become: float32."""
        kinds = {tensor.type for tensor in self._stored.values() if len(tensor.shape) > 1}
        if kinds == {GGMLQuantizationType.F16}:
            return "float16"
        if kinds == {GGMLQuantizationType.BF16}:
            return "bfloat16"
        return "float32"

    def tensors(self) -> Iterator[tuple[str, Callable[[], NDArray[np.float32]]]]:
        """Hugging Face name and a function that reads the tensor, a fresh float32 array, for every weight.

        A tensor that the architecture does not have keeps its GGUF name. Raises ConfigError at the first
        step, before anything is read, if some tensor's type cannot be dequantised.
        """
        weights = [tensor for tensor in self._stored.values() if tensor.name != _ROPE_FACTORS]
        self._check_types(weights)
        for stored in weights:
            yield self.architecture.hugging_face_name(stored.name), partial(self._restore, stored)

    def get(self, key: str, default: Any = None) -> Any:
        """Metadata under the architecture's own prefix: `get("rope.freq_base")`."""
        return self.metadata.get(f"{self.prefix}.{key}", default)

    def _check_types(self, tensors: list[StoredTensor]) -> None:
        for kind, stored in {tensor.type: tensor for tensor in reversed(tensors)}.items():
            _, block_bytes = GGML_QUANT_SIZES[kind]
            try:
                dequantize(np.zeros((1, block_bytes), np.uint8), kind)
            except NotImplementedError:
                raise ConfigError(
                    f"{self.path}: tensor {stored.name} is stored as {kind.name}, which the `gguf` package "
                    f"cannot dequantise; convert the model to another type, such as Q8_0"
                ) from None

    def _dequantise(self, stored: StoredTensor) -> NDArray[np.float32]:
        elements, block_bytes = GGML_QUANT_SIZES[stored.type]
        raw = np.frombuffer(self._data, np.uint8, stored.size, stored.offset)
        rows = raw.reshape(*stored.shape[:-1], stored.shape[-1] // elements * block_bytes)
        values = dequantize(rows, stored.type)
        # A float32 tensor is still a view of the read-only file.
        return values if values.flags.writeable else values.copy()

    def _restore(self, stored: StoredTensor) -> NDArray[np.float32]:
        """The tensor with the values and the order of rows that it had before it was converted."""
        heads = self.get("attention.head_count")
        if self.architecture.interleaved and ".attn_q." in stored.name:
            return self._unpermute(stored, heads)
        if self.architecture.interleaved and ".attn_k." in stored.name:
            return self._unpermute(stored, self.get("attention.head_count_kv", heads))
        values = self._dequantise(stored)
        if self.architecture.norms_from_one and stored.name.endswith("norm.weight"):
            values -= 1
        return values

    def _unpermute(self, stored: StoredTensor, heads: Any) -> NDArray[np.float32]:
        """Undo ggml's row order of query and key projections.

        ggml rotates neighbouring rows (2i, 2i+1) of a head, Hugging Face rows (i, i + head_dim/2): the
        converter interleaved the two halves of each head, and the inverse separates them again.
        """
        values = self._dequantise(stored)
        rows = values.shape[0]
        if not isinstance(heads, int) or heads <= 0 or rows % (2 * heads):
            raise ConfigError(
                f"{self.path}: tensor {stored.name} has {rows} rows, which {heads} heads cannot share: "
                f"{self.prefix}.attention.head_count or {self.prefix}.attention.head_count_kv is wrong"
            )
        split = values.reshape(heads, rows // heads // 2, 2, *values.shape[1:])
        return np.ascontiguousarray(split.swapaxes(1, 2)).reshape(values.shape)
