# SPDX-License-Identifier: Apache-2.0
"""A tiny model's folder, and one command line as a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from scripted import byte_tokenizer

from sgl_runtime import cli
from sgl_runtime.models.llama import TINY

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer llama without weights, with a tokenizer of bytes; read-only."""
    folder = tmp_path_factory.mktemp("tiny")
    config = {**TINY, "architectures": ["LlamaForCausalLM"], "vocab_size": 260, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config))
    byte_tokenizer()._backend.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Exit code, standard output and standard error of `sgl-runtime` with these arguments."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return run
