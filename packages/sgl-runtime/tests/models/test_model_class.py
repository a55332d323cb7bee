# SPDX-License-Identifier: Apache-2.0
"""A checkpoint finds its class by names alone; what is not there is refused with what is."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import msgspec
import pytest
from tiny_checkpoint import write_checkpoint

import sgl_runtime.models
from sgl_runtime.checkpoint.config import ModelConfig, read_config
from sgl_runtime.errors import ConfigError
from sgl_runtime.models import model_class, supported
from sgl_runtime.models.base import Model
from sgl_runtime.models.llama import LlamaForCausalLM


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return read_config(write_checkpoint(tmp_path_factory.mktemp("llama")))


def test_module_by_model_type_and_class_by_architecture(config: ModelConfig) -> None:
    assert model_class(config) is LlamaForCausalLM


def test_every_file_is_a_model() -> None:
    folder = Path(sgl_runtime.models.__file__).parent
    assert set(supported()) == {file.stem for file in folder.glob("*.py")} - {"__init__", "base"}


def test_an_unknown_model_type_is_refused_with_what_is_supported(config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=r"model_type 'mamba' with .* is not supported; supported: .*llama"):
        model_class(msgspec.structs.replace(config, model_type="mamba", architecture="MambaForCausalLM"))
    with pytest.raises(ConfigError, match="model_type 'base'"):
        model_class(msgspec.structs.replace(config, model_type="base", architecture="Model"))


def test_an_unknown_model_type_with_a_known_architecture_is_served(config: ModelConfig) -> None:
    assert model_class(msgspec.structs.replace(config, model_type="somebody's")) is LlamaForCausalLM


@pytest.mark.parametrize("architecture", ["LlamaForTokenClassification", "Attention", "TINY", "Model"])
def test_an_unknown_architecture_is_refused_with_what_there_is(
    config: ModelConfig, architecture: str
) -> None:
    with pytest.raises(
        ConfigError, match=f"architecture '{architecture}' is not supported.*LlamaForCausalLM"
    ):
        model_class(msgspec.structs.replace(config, architecture=architecture))


def test_another_distribution_can_bring_a_model(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("their_model")
    module.TheirForCausalLM = type("TheirForCausalLM", (Model,), {})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "their_model", module)
    point = EntryPoint(name="their_type", value="their_model", group="sgl_runtime.models")
    monkeypatch.setattr(
        sgl_runtime.models, "entry_points", lambda group: [point] if group == point.group else []
    )
    theirs = msgspec.structs.replace(config, model_type="their-type", architecture="TheirForCausalLM")
    assert model_class(theirs) is module.TheirForCausalLM
