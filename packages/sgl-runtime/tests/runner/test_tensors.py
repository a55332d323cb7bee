# SPDX-License-Identifier: Apache-2.0
"""The same tensors come out of every layout of files; damaged and missing files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_checkpoint import Weights, write_checkpoint

from sgl_runtime.errors import ConfigError
from sgl_runtime.runner.tensors import dummy_tensors, stored_tensors


@pytest.fixture(scope="module")
def expected(tiny: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny / "model.safetensors")


def read(folder: Path, load_format: str = "auto") -> dict[str, torch.Tensor]:
    tensors = stored_tensors(folder, load_format)
    assert len({tensor.name for tensor in tensors}) == len(tensors)
    return {tensor.name: tensor.read() for tensor in tensors}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_every_layout_holds_the_same(
    weights: Weights, shards: int, tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    write_checkpoint(tmp_path, weights=weights, shards=shards)
    assert_same(read(tmp_path), expected)
    assert_same(read(tmp_path, "safetensors" if weights == "safetensors" else "pt"), expected)


def test_shards_without_an_index_are_all_read(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    write_checkpoint(tmp_path, shards=2)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert_same(read(tmp_path), expected)


def test_files_that_the_index_does_not_name_are_not_read(
    tmp_path: Path, expected: dict[str, torch.Tensor]
) -> None:
    write_checkpoint(tmp_path, shards=2)
    (tmp_path / "consolidated.safetensors").write_bytes(b"something else")
    assert_same(read(tmp_path), expected)


def test_bin_files_of_the_old_format(tmp_path: Path, expected: dict[str, torch.Tensor]) -> None:
    torch.save(expected, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(read(tmp_path), expected)


@pytest.mark.parametrize("weights", ["safetensors", "bin"])
@pytest.mark.parametrize("keep", [0, 5, 0.3, 0.999])
def test_a_truncated_file_is_named(weights: Weights, keep: float, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, weights=weights, shards=2)
    (file,) = tmp_path.glob("*-00002-of-00002.*")
    data = file.read_bytes()
    file.write_bytes(data[: keep if isinstance(keep, int) else int(len(data) * keep)])
    with pytest.raises(ConfigError, match=rf"{file} is damaged or incomplete"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_of_something_else_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.example\noid sha256:00\nsize 1234\n" * 3)
    with pytest.raises(ConfigError, match=f"{name} is damaged"):
        read(tmp_path)


def test_a_bin_file_may_not_bring_code(tmp_path: Path) -> None:
    torch.save({"weight": Path("x")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin is damaged"):
        read(tmp_path)
    torch.save(torch.zeros(2), tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="does not hold a dictionary of tensors"):
        read(tmp_path)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(
        ConfigError, match=r"index\.json names files that are not there: model-00002-of-00003"
    ):
        read(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}', json.dumps({"weight_map": {"a": 3}})])
def test_an_index_of_another_shape_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json is not an index"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("load_format", "message"),
    [
        ("auto", r"no weights \(model\*\.safetensors or pytorch_model\*\.bin\)"),
        ("pt", r"no weights \(pytorch_model\*\.bin\)"),
        ("gguf", "is a folder"),
    ],
)
def test_a_folder_without_the_asked_weights(load_format: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "training_args.bin").write_bytes(b"no weights")
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, load_format)


def test_a_single_file_is_gguf_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match="--load-format pt reads a folder"):
        read(file, "pt")
    with pytest.raises(ConfigError, match=r"model\.gguf"):
        read(file)


def test_dummies_depend_on_names_alone() -> None:
    shapes = {"a.weight": (40, 50), "b.weight": (40, 50), "norm.weight": (9,), "a.bias": (9,)}
    device = torch.device("cpu")
    first = {each.name: each.read() for each in dummy_tensors(shapes, torch.float32, device)}
    again = {each.name: each.read() for each in reversed(dummy_tensors(shapes, torch.float32, device))}
    assert {name: tuple(tensor.shape) for name, tensor in first.items()} == shapes
    assert_same(again, first)
    assert not torch.equal(first["a.weight"], first["b.weight"])
    assert abs(float(first["a.weight"].std()) - 0.02) < 0.002
    assert (first["norm.weight"] == 1).all() and (first["a.bias"] != 1).all()


@pytest.mark.parametrize("shape", [(5000, 2048), (40, 60, 300)])
def test_the_rows_of_a_large_dummy_differ(shape: tuple[int, ...]) -> None:
    """They are windows on one table of numbers."""
    (dummy,) = dummy_tensors({"big.weight": shape}, torch.float32, torch.device("cpu"))
    matrix = dummy.read()
    assert matrix.shape == shape
    rows = matrix.flatten(0, -2)
    assert len(rows.unique(dim=0)) == len(rows)
    assert abs(float(matrix.std()) - 0.02) < 1e-4 and abs(float(matrix.mean())) < 1e-4
