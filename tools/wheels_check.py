# SPDX-License-Identifier: Apache-2.0
"""Installs each built wheel in an empty environment and imports it there.

    python tools/wheels_check.py FOLDER_OF_WHEELS

What a user of one distribution gets: its import works, and `sgl-lang` and `sgl-constrain` bring no torch. The
other wheels of the workspace are found in the same folder; torch itself is taken from this environment's
cache. The wheels there are pure; where there is a C compiler, that of sgl-constrain with its part in C is
built and installed as well.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
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


NATIVE_PROGRAM = """
from sgl_constrain import Compiler, Vocabulary
from sgl_constrain.twin import native
grammar = Compiler(Vocabulary([b"a", b"b", b"ab"], eos=[])).regex("a+b")
print(native(), grammar.mask(grammar.start).tolist())
"""


def check_page(wheels: Path) -> None:
    """The page's files are in the wheel as they are in the sources."""
    (wheel,) = wheels.glob("sgl_runtime-*.whl")
    sources = ROOT / "packages" / "sgl-runtime" / "src"
    files = sorted((sources / "sgl_runtime" / "http" / "static").iterdir())
    with zipfile.ZipFile(wheel) as archive:
        for file in files:
            if archive.read(file.relative_to(sources).as_posix()) != file.read_bytes():
                raise SystemExit(f"{file.name} in {wheel.name} is another one")
    print(f"{wheel.name}: has the {len(files)} files of the page")


def check_native(wheels: Path) -> None:
    """The wheel with the extension installs beside numpy, says that it is used, and gives the same mask."""
    pure = list(wheels.glob("sgl_constrain-*.whl"))
    if not pure or any("-py3-none-any" not in wheel.name for wheel in pure):
        raise SystemExit(f"the wheel of sgl-constrain is not pure: {[wheel.name for wheel in pure]}")
    if shutil.which("cc") is None and shutil.which("gcc") is None:
        print("sgl-constrain: no C compiler, so the wheel with the extension is not built")
        return
    with tempfile.TemporaryDirectory() as folder:
        python = str(Path(folder) / "venv" / "bin" / "python")
        run("uv", "venv", "--quiet", "--python", sys.executable, str(Path(folder) / "venv"))
        run(
            "uv",
            "build",
            "--quiet",
            "--wheel",
            "packages/sgl-constrain",
            "-o",
            folder,
            SGL_CONSTRAIN_NATIVE="1",
        )
        (wheel,) = Path(folder).glob("sgl_constrain-*-cp311-abi3-*.whl")
        run("uv", "pip", "install", "--quiet", "--python", python, str(wheel))
        for variable, used in (("0", "True"), ("1", "False")):
            said = run(python, "-W", "error", "-c", NATIVE_PROGRAM, cwd=folder, SGL_CONSTRAIN_PURE=variable)
            if said.split(maxsplit=1) != [used, "[5]\n"]:
                raise SystemExit(f"{wheel.name} with SGL_CONSTRAIN_PURE={variable} says {said}")
        print(f"{wheel.name}: installs, and is used unless SGL_CONSTRAIN_PURE says otherwise")


def run(*command: str, cwd: str | Path = ROOT, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env=os.environ | environment
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    for distribution in DISTRIBUTIONS:
        check(distribution, Path(sys.argv[1]))
    check_page(Path(sys.argv[1]))
    check_native(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
