# SPDX-License-Identifier: Apache-2.0
"""Installs each built wheel in an empty environment and imports it there.

    python tools/wheels_check.py FOLDER_OF_WHEELS

What a user of one distribution gets: its import works, and `sgl-lang` and `sgl-constrain` bring no torch. The
other wheels of the workspace are found in the same folder; torch itself is taken from this environment's
cache.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

# distribution -> (import name, may bring torch)
DISTRIBUTIONS = {
    "sgl-lang": ("sgl_lang", False),
    "sgl-constrain": ("sgl_constrain", False),
    "sgl-kernels": ("sgl_kernels", True),
    "sgl-runtime": ("sgl_runtime", True),
}
ROOT = Path(__file__).resolve().parent.parent


def check(distribution: str, wheels: Path) -> None:
    module, torch_allowed = DISTRIBUTIONS[distribution]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder) / "bin" / "python"
        run("uv", "venv", "--quiet", "--python", sys.executable, folder)
        pins = Path(folder) / "pins.txt"
        frozen = run("uv", "pip", "freeze", "--python", sys.executable, "--exclude-editable")
        pins.write_text(
            "\n".join(line for line in frozen.splitlines() if "@" not in line and "sgl" not in line)
        )
        run("uv", "pip", "install", "--quiet", "--python", str(python), "--find-links", str(wheels),
            "--constraints", str(pins), distribution)  # fmt: skip
        names = {
            line.split("==")[0] for line in run("uv", "pip", "freeze", "--python", str(python)).splitlines()
        }
        if not torch_allowed and "torch" in names:
            raise SystemExit(f"{distribution} brings torch")
        version = run(
            str(python),
            "-W",
            "error",
            "-c",
            f"import {module}, importlib.metadata as m; print(m.version({distribution!r}))",
            cwd=folder,
        )
        if distribution == "sgl-runtime":
            run(str(python.with_name("sgl-runtime")), "--version", cwd=folder)
        print(f"{distribution} {version.strip()}: installs and imports alone, with {len(names) - 1} others")


def run(*command: str, cwd: str | Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    for distribution in DISTRIBUTIONS:
        check(distribution, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
