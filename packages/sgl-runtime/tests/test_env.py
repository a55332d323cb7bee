# SPDX-License-Identifier: Apache-2.0
"""`sgl-runtime env` tells what there is, and what is missing or broken as a line of its own."""

from __future__ import annotations

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest

from sgl_runtime import cli, env

SECTIONS = ["system", "packages", "dependencies", "torch", "GPUs", "kernels", "constrained decoding"]


def test_it_prints_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["env", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == SECTIONS
    assert report["packages"]["sgl-runtime"] == version("sgl-runtime")
    assert report["dependencies"]["torch"] == version("torch") and "GiB" in report["system"]["memory"]
    assert report["kernels"]["reference"].startswith("usable: ")
    assert cli.run(["env"]) == 0
    text = capsys.readouterr().out
    assert all(section in text for section in SECTIONS)
    assert version("numpy") in text


def test_pieces_that_are_missing_or_broken_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> ModuleType:
        if name == "torch":
            raise OSError("libcudart.so.13: cannot open shared object file\nand more")
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", broken)
    monkeypatch.setattr(env, "_THEIRS", ("no-such-package",))
    report = env.collect()
    assert report["torch"] == {"cannot be used": "OSError: libcudart.so.13: cannot open shared object file"}
    assert "No module named 'sgl_kernels'" in report["kernels"]["cannot be used"]
    assert report["dependencies"] == {"no-such-package": None}
    assert "no-such-package  not installed" in env.render(report)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (None, {"nvidia-smi": "not on the PATH"}),
        ("echo driver mismatch; exit 9", {"nvidia-smi": "exit code 9: driver mismatch"}),
        (
            'if [ "$1" = topo ]; then echo "GPU0 X"; else echo "H200, 1 MiB, 2 MiB, 580.1, 9.0, 700 W"; fi',
            {
                "GPU 0": "H200: memory.total 1 MiB, memory.used 2 MiB, driver_version 580.1, "
                "compute_cap 9.0, power.limit 700 W",
                "topology": "GPU0 X\n",
            },
        ),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_what_the_driver_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str | None, told: dict[str, str]
) -> None:
    if script is not None:
        file = tmp_path / "nvidia-smi"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert env._gpus() == told
