# SPDX-License-Identifier: Apache-2.0
"""Our header reader against the `gguf` package's own, and against files that are cut off or damaged."""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from sgl_runtime.checkpoint.gguf_header import read_header
from sgl_runtime.errors import ConfigError


def reference(path: Path) -> dict[str, Any]:
    fields = GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def integers(bits: int, signed: bool) -> st.SearchStrategy[int]:
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else st.integers(0, 2**bits - 1)


SCALARS: dict[GGUFValueType, st.SearchStrategy[Any]] = {
    GGUFValueType.BOOL: st.booleans(),
    GGUFValueType.STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    GGUFValueType.FLOAT32: st.floats(width=32, allow_nan=False),
    GGUFValueType.FLOAT64: st.floats(allow_nan=False),
} | {
    GGUFValueType[f"{'' if signed else 'U'}INT{bits}"]: integers(bits, signed)
    for bits in (8, 16, 32, 64)
    for signed in (True, False)
}
# Arrays that GGUFWriter can be told to write: it takes their type from the first element.
ARRAYS = st.one_of(
    st.lists(SCALARS[GGUFValueType.STRING], min_size=1, max_size=5),
    st.lists(SCALARS[GGUFValueType.INT32], min_size=1, max_size=5),
    st.lists(SCALARS[GGUFValueType.FLOAT32], min_size=1, max_size=5),
    st.lists(st.booleans(), min_size=1, max_size=5),
)
VALUES = st.one_of(
    *(st.tuples(st.just(kind), values) for kind, values in SCALARS.items()),
    st.tuples(st.just(GGUFValueType.ARRAY), ARRAYS),
)
KEYS = st.text(st.characters(codec="ascii", categories=["Ll"]), min_size=1, max_size=8)


@given(st.dictionaries(KEYS, VALUES, max_size=8), st.lists(st.tuples(KEYS, st.integers(1, 9)), max_size=3))
@settings(max_examples=60, deadline=None)
def test_metadata_and_tensor_table_are_what_the_gguf_package_reads(
    metadata: dict[str, tuple[GGUFValueType, Any]], tensors: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        for key, (kind, value) in metadata.items():
            if kind == GGUFValueType.ARRAY:
                writer.add_array(key, value)
            else:
                writer.add_key_value(key, value, kind)
        for name, rows in dict(tensors).items():
            writer.add_tensor(name, np.arange(rows * 3, dtype=np.float32).reshape(rows, 3))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        header = read_header(path)
        assert dict(header.metadata) == reference(path)
        theirs = GGUFReader(path).tensors
        assert len(header.tensors) == len(theirs)
        for ours, their in zip(header.tensors, theirs, strict=True):
            assert (ours.name, ours.type) == (their.name, their.tensor_type)
            assert ours.shape == tuple(reversed(their.shape.tolist()))
            assert header.data[ours.offset : ours.offset + ours.size] == their.data.tobytes()


def test_the_demonstration_model_is_read_as_the_gguf_package_reads_it_but_sooner(demonstration: Path) -> None:
    began = time.perf_counter()
    header = read_header(demonstration)
    between = time.perf_counter()
    reader = GGUFReader(demonstration)
    ended = time.perf_counter()
    assert 8 * (between - began) < ended - between, "the reason for having our own"
    theirs = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.metadata.keys() == theirs.keys()
    for key, field in theirs.items():
        ours = header.metadata[key]
        if isinstance(ours, list) and len(ours) > 1000:
            assert len(ours) == len(field.data)
            for place in (*range(0, len(ours), 1009), len(ours) - 1):
                assert ours[place] == field.contents(slice(place, place + 1))[0]
        else:
            assert ours == field.contents()
    assert [(tensor.name, tensor.offset, tensor.size) for tensor in header.tensors] == [
        (tensor.name, tensor.data_offset, tensor.n_bytes) for tensor in reader.tensors
    ]


@pytest.fixture
def small(write_gguf: Callable[..., Path]) -> Path:
    tensors = {"token_embd.weight": np.ones((4, 8), np.float32), "output_norm.weight": np.ones(8, np.float32)}
    return write_gguf(tensors, {"block_count": 1, "tokenizer.ggml.tokens": ["a", "b"], "x.y": 1.5})


def test_a_file_cut_off_anywhere_says_so(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    cut = tmp_path / "cut.gguf"
    read_header(small)
    for length in range(len(whole)):
        cut.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"cut\.gguf (is truncated|cannot be read|is not a GGUF)"):
            read_header(cut)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_a_config_error_or_harmless(data: st.DataObject) -> None:
    whole = bytearray(_SMALL)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.sampled_from([0, 1, 7, 9, 0x7F, 0x80, 0xFF]))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        path.write_bytes(whole)
        try:
            read_header(path)
        except ConfigError as error:
            assert str(path) in error.message


def _small_file() -> bytes:
    string = struct.Struct("<Q")

    def text(value: str) -> bytes:
        return string.pack(len(value)) + value.encode()

    pairs = [
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("general.alignment") + struct.pack("<II", 4, 32),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
        text("scores") + struct.pack("<IIQ2f", 9, 6, 2, 0.5, 1.5),
    ]
    table = text("w") + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(pairs)) + b"".join(pairs) + table
    return header + bytes(-len(header) % 32) + bytes(4 * 64)


_SMALL = _small_file()


def patched(tmp_path: Path, old: bytes, new: bytes) -> Path:
    assert _SMALL.count(old) == 1
    path = tmp_path / "patched.gguf"
    path.write_bytes(_SMALL.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"GGUF", b"GGML", "is not a GGUF file"),
        (b"GGUF\x03", b"GGUF\x01", "is GGUF version 1"),
        (b"GGUF\x03\0\0\0", b"GGUF\0\0\0\x03", "is a big-endian GGUF file"),
        (struct.pack("<II", 4, 32), struct.pack("<II", 4, 33), "general.alignment is 33"),
        (struct.pack("<IIQ", 9, 8, 2), struct.pack("<IIQ", 9, 8, 2**60), "is truncated"),
        (struct.pack("<IIQ", 9, 6, 2), struct.pack("<IIQ", 9, 77, 2), "a value of the unknown type 77"),
        (struct.pack("<IIQ", 9, 6, 2), struct.pack("<IIQ", 9, 9, 2), "an array of arrays"),
        (b"scores", b"tokens", "the key tokens appears twice"),
        (b"scores", b"score\xff", "a string is not UTF-8"),
        (struct.pack("<IQQIQ", 2, 32, 2, 0, 0), struct.pack("<IQQIQ", 9, 32, 2, 0, 0), "has 9 dimensions"),
        (
            struct.pack("<IQQIQ", 2, 32, 2, 0, 0),
            struct.pack("<IQQIQ", 2, 32, 2, 99, 0),
            "tensor w has the unknown type 99",
        ),
        (
            struct.pack("<IQQIQ", 2, 32, 2, 0, 0),
            struct.pack("<IQQIQ", 2, 33, 2, 8, 0),
            "not whole blocks of Q8_0",
        ),
        (
            struct.pack("<IQQIQ", 2, 32, 2, 0, 0),
            struct.pack("<IQQIQ", 2, 32, 3, 0, 0),
            "is truncated: tensor w ends at",
        ),
    ],
)
def test_each_kind_of_damage_is_told_apart(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        read_header(patched(tmp_path, old, new))
    assert "patched.gguf" in raised.value.message


def test_two_tensors_of_one_name_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "twice.gguf"
    table = struct.pack("<Q", 1) + b"w" + struct.pack("<IQQIQ", 2, 32, 2, 0, 0)
    whole = _SMALL.replace(struct.pack("<IQ", 3, 1), struct.pack("<IQ", 3, 2)).replace(table, table + table)
    path.write_bytes(whole + bytes(64))
    with pytest.raises(ConfigError, match="two tensors have the same name"):
        read_header(path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as a GGUF file"):
            read_header(path)


def test_a_big_endian_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    writer = gguf.GGUFWriter(path, "llama", endianess=GGUFEndian.BIG)
    writer.add_tensor("w", np.ones((2, 32), np.float32), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="is a big-endian GGUF file"):
        read_header(path)
