# SPDX-License-Identifier: Apache-2.0
"""Compiles the twin in C with the C compiler that Python was built with.

    python build_native.py FOLDER [FLAG ...]

Writes _native.abi3.so into the folder: for every CPython from 3.11 on, by the limited API. Further flags go
to the compiler. `hatch_build.py` builds the wheel with it, the tests build one for themselves.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parent / "native"


def build(folder: str | Path, flags: Sequence[str] = ()) -> Path:
    """The extension module, made in `folder`. Raises OSError without a compiler, CalledProcessError."""
    if sys.platform == "win32":
        raise OSError("the twin in C is built with a Unix compiler only; the pure wheel needs none")
    made = Path(folder) / "_native.abi3.so"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    include = f"-I{sysconfig.get_path('include')}"
    options = ["-std=c11", "-O3", "-fPIC", "-fvisibility=hidden", *link, include, *flags]
    sources = sorted(map(str, SOURCES.glob("*.c")))
    subprocess.run([*compiler, *options, *sources, "-o", str(made)], check=True)
    return made


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2:])
