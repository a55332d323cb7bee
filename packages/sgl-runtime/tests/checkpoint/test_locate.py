# SPDX-License-Identifier: Apache-2.0
"""Names to files. Downloads go to a stand-in for the hub's client: there is no network in tests."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from sgl_runtime.checkpoint.locate import locate
from sgl_runtime.errors import ConfigError


class Hub:
    """Records what is asked for; answers with a folder, or raises."""

    def __init__(self, folder: Path, error: Exception | None = None) -> None:
        self.folder = folder
        self.error = error
        self.asked: list[tuple[str, list[str]]] = []

    def snapshot_download(self, model: str, *, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        self.asked.append((model, allow_patterns))
        assert "*/*" in ignore_patterns, "subfolders hold other formats of the same weights"
        if self.error is not None:
            raise self.error
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "snapshot")
    hub.folder.mkdir()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    return hub


def test_nothing_is_the_demonstration_model(demonstration: Path) -> None:
    assert locate(None) == demonstration


def test_without_its_package_the_demonstration_model_comes_from_the_hub(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (hub.folder / "model.safetensors").touch()
    assert locate(None) == hub.folder
    assert hub.asked[0][0] == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_what_exists_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "a.gguf").touch()
    for path in (tmp_path, tmp_path / "a.gguf"):
        assert locate(str(path)) == path


def test_a_folder_with_one_gguf_file_and_no_config_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    assert locate(str(tmp_path)) == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ConfigError, match=r"several GGUF files; name one of a\.gguf, b\.gguf"):
        locate(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["./missing", "/missing/folder", "a b", "one/two/three", "missing.gguf", "a//b", ""]
)
def test_what_cannot_be_a_hub_id_is_not_looked_for_there(
    hub: Hub, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(hub.folder.parent)
    if name:
        with pytest.raises(
            ConfigError, match="does not exist; give a model's folder, a GGUF file or a hub id"
        ):
            locate(name)
    assert not hub.asked


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.touch()
    with pytest.raises(ConfigError, match=r"model\.bin is neither a folder nor a GGUF file"):
        locate(str(file))


def test_a_hub_id_brings_safetensors_or_else_pickles(hub: Hub) -> None:
    assert locate("org/model") == hub.folder
    safetensors, pickles = (patterns for _, patterns in hub.asked)
    assert "*.safetensors" in safetensors and "*.bin" not in safetensors
    assert "*.bin" in pickles
    hub.asked.clear()
    (hub.folder / "model.safetensors").touch()
    locate("org/model")
    assert len(hub.asked) == 1


def _http_error(kind: type[Exception], message: str) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    return error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (_http_error(huggingface_hub.errors.GatedRepoError, "403"), "org/model is gated: accept its terms"),
        (_http_error(huggingface_hub.errors.RepositoryNotFoundError, "404"), "neither here nor on the hub"),
        (
            huggingface_hub.errors.LocalEntryNotFoundError("no network\nlong tale"),
            r"downloaded \(no network\); give",
        ),
        (OSError("No space left on device"), "No space left on device"),
        (huggingface_hub.errors.HFValidationError("bad id"), "bad id"),
    ],
)
def test_a_failed_download_is_one_sentence(hub: Hub, error: Exception, message: str) -> None:
    hub.error = error
    with pytest.raises(ConfigError, match=message) as raised:
        locate("org/model")
    assert "\n" not in str(raised.value)


def test_modelscope_is_asked_when_told_to(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    there = Hub(hub.folder)
    module: Any = types.ModuleType("modelscope")
    module.snapshot_download = there.snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", module)
    assert locate("org/model", use_modelscope=True) == hub.folder
    assert there.asked and not hub.asked
    there.error = OSError("unreachable")
    with pytest.raises(ConfigError, match="could not be downloaded from ModelScope: unreachable"):
        locate("org/model", use_modelscope=True)


def test_modelscope_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ConfigError, match="pip install modelscope"):
        locate("org/model", use_modelscope=True)
