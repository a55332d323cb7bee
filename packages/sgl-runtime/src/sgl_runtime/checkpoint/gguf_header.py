# SPDX-License-Identifier: Apache-2.0
"""The header of a GGUF file: its metadata as plain Python values and where each tensor lies.

The format is ggml's `docs/gguf.md`, versions 2 and 3, little endian. `gguf.GGUFReader` reads the same thing
but keeps an array view per string, which takes seconds for a vocabulary; this takes tens of milliseconds.
What the metadata means and how tensors are stored is not known here.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from sgl_runtime.errors import ConfigError

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_SCALARS = {
    GGUFValueType.UINT8: np.dtype("<u1"),
    GGUFValueType.INT8: np.dtype("<i1"),
    GGUFValueType.UINT16: np.dtype("<u2"),
    GGUFValueType.INT16: np.dtype("<i2"),
    GGUFValueType.UINT32: np.dtype("<u4"),
    GGUFValueType.INT32: np.dtype("<i4"),
    GGUFValueType.FLOAT32: np.dtype("<f4"),
    GGUFValueType.BOOL: np.dtype("?"),
    GGUFValueType.UINT64: np.dtype("<u8"),
    GGUFValueType.INT64: np.dtype("<i8"),
    GGUFValueType.FLOAT64: np.dtype("<f8"),
}
_MAX_DIMENSIONS = 4


class StoredTensor(NamedTuple):
    """Where one tensor lies in the file."""

    name: str
    shape: tuple[int, ...]  # slowest dimension first, as numpy has it
    type: GGMLQuantizationType
    offset: int  # bytes from the start of the file
    size: int  # bytes


class Header(NamedTuple):
    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    data: mmap.mmap  # the whole file


def read_header(path: Path) -> Header:
    """Map the file and read its header.

    Raises ConfigError, naming the file, if it cannot be read, is not GGUF, is damaged, or ends before its
    last tensor.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ConfigError(f"{path} cannot be read as a GGUF file: {error}") from error
    return _Cursor(path, data).header()


class _Cursor:
    """A position in the mapped file. Every read checks that the file is long enough."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = 0

    def header(self) -> Header:
        self._check_version()
        tensors, pairs = self._u64(), self._u64()
        metadata: dict[str, Any] = {}
        for _ in range(self._count(pairs, 13)):  # 8 bytes of key length, 4 of type, 1 of value at least
            key = self._string()
            if key in metadata:
                self._damaged(f"the key {key} appears twice")
            metadata[key] = self._value(self._u32())
        table = [self._table_entry() for _ in range(self._count(tensors, 24))]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
            self._damaged(f"general.alignment is {alignment}, not a power of two")
        start = -(-self._at // alignment) * alignment
        placed = tuple(self._place(entry, start) for entry in table)
        if len({tensor.name for tensor in placed}) < len(placed):
            self._damaged("two tensors have the same name")
        return Header(metadata, placed, self._data)

    def _check_version(self) -> None:
        if self._data[:4] != b"GGUF":
            raise ConfigError(f"{self._path} is not a GGUF file: it does not begin with the letters GGUF")
        self._at = 4
        version = self._u32()
        if version not in (2, 3):
            if version & 0xFFFF == 0:
                raise ConfigError(f"{self._path} is a big-endian GGUF file; convert it to little endian")
            raise ConfigError(f"{self._path} is GGUF version {version}; only versions 2 and 3 can be read")

    def _table_entry(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string()
        dimensions = self._u32()
        if dimensions > _MAX_DIMENSIONS:
            self._damaged(f"tensor {name} has {dimensions} dimensions")
        shape = tuple(reversed([self._u64() for _ in range(dimensions)]))
        return name, shape, self._u32(), self._u64()

    def _place(self, entry: tuple[str, tuple[int, ...], int, int], start: int) -> StoredTensor:
        name, shape, number, offset = entry
        try:
            kind = GGMLQuantizationType(number)
        except ValueError:
            raise ConfigError(
                f"{self._path}: tensor {name} has the unknown type {number}; update the `gguf` package"
            ) from None
        elements, block_bytes = GGML_QUANT_SIZES[kind]
        if shape and shape[-1] % elements:
            self._damaged(f"the rows of tensor {name} are not whole blocks of {kind.name}")
        size = block_bytes
        for length in shape:
            size *= length
        size //= elements
        end = start + offset + size
        if end > self._size:
            raise ConfigError(
                f"{self._path} is truncated: tensor {name} ends at byte {end}, the file at {self._size}; "
                f"download it again"
            )
        return StoredTensor(name, shape, kind, start + offset, size)

    def _value(self, number: int) -> Any:
        if number == GGUFValueType.STRING:
            return self._string()
        if number == GGUFValueType.ARRAY:
            return self._array(self._u32(), self._u64())
        return self._scalars(number, 1)[0]

    def _array(self, number: int, count: int) -> list[Any]:
        if number == GGUFValueType.STRING:
            return self._strings(self._count(count, 8))
        if number == GGUFValueType.ARRAY:
            self._damaged("an array of arrays, which no known file has")
        return self._scalars(number, count)

    def _scalars(self, number: int, count: int) -> list[Any]:
        dtype = _SCALARS.get(number)  # type: ignore[call-overload]  # an enum of ints is found by an int
        if dtype is None:
            self._damaged(f"a value of the unknown type {number}")
        self._count(count, dtype.itemsize)
        values = np.frombuffer(self._data, dtype, count, self._at).tolist()
        self._at += count * dtype.itemsize
        return list(values)

    def _strings(self, count: int) -> list[str]:
        """A vocabulary is read here: one loop without calls, for speed."""
        data, at, length_at, size = self._data, self._at, _U64.unpack_from, self._size
        strings: list[str] = []
        try:
            for _ in range(count):
                end = at + 8 + length_at(data, at)[0]
                if end > size:
                    self._truncated()
                strings.append(data[at + 8 : end].decode())
                at = end
        except struct.error:
            self._truncated()
        except UnicodeDecodeError as error:
            self._damaged(f"a string is not UTF-8 ({error.reason})")
        self._at = at
        return strings

    def _string(self) -> str:
        return self._strings(1)[0]

    def _u32(self) -> int:
        return self._unpack(_U32)

    def _u64(self) -> int:
        return self._unpack(_U64)

    def _unpack(self, layout: struct.Struct) -> int:
        self._count(1, layout.size)
        (value,) = layout.unpack_from(self._data, self._at)
        self._at += layout.size
        return int(value)

    def _count(self, count: int, bytes_each: int) -> int:
        """`count`, if the file is long enough for that many things of at least `bytes_each`."""
        if count * bytes_each > self._size - self._at:
            self._truncated()
        return count

    def _truncated(self) -> NoReturn:
        raise ConfigError(f"{self._path} is truncated: it ends inside its header; download it again")

    def _damaged(self, what: str) -> NoReturn:
        raise ConfigError(f"{self._path} is damaged: {what}; download it again")
