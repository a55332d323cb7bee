# SPDX-License-Identifier: Apache-2.0
"""What is public, with signatures, against the committed `public_api.txt`.

A difference is a decision: run this file as a script to write it down.
"""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sgl_constrain
from sgl_constrain import Limits, structural, transformers

SNAPSHOT = Path(__file__).with_name("public_api.txt")
SHOWN = ("__call__", "__getitem__", "__len__")
# The adapters for vLLM and SGLang have the interfaces of those engines: see test_vllm and test_sglang.
BESIDE = {
    "sgl_constrain.structural.structural_tag": structural.structural_tag,
    "sgl_constrain.transformers.GrammarLogitsProcessor": transformers.GrammarLogitsProcessor,
}


def public() -> dict[str, Any]:
    return {name: getattr(sgl_constrain, name) for name in sorted(sgl_constrain.__all__)} | BESIDE


def lines() -> Iterator[str]:
    for name, value in public().items():
        if inspect.isclass(value):
            made = "" if issubclass(value, Exception) else signature(value)
            yield f"class {name}({', '.join(base.__name__ for base in value.__bases__)}){made}"
            yield from members(value)
        elif callable(value):
            yield f"def {name}{signature(value)}"
        else:
            yield f"{name}: {type(value).__name__}"


def members(owner: type) -> Iterator[str]:
    for name, member in sorted(vars(owner).items()):
        if name.startswith("_") and name not in SHOWN:
            continue
        if isinstance(member, classmethod):
            yield f"    classmethod {name}{signature(member.__func__)}"
        elif isinstance(member, property):
            yield f"    {name}: {inspect.signature(member.fget).return_annotation}"  # type: ignore[arg-type]
        elif hasattr(member, "func"):  # a cached property
            yield f"    {name}: {inspect.signature(member.func).return_annotation}"
        elif inspect.isfunction(member):
            yield f"    def {name}{signature(member)}"


def signature(value: Any) -> str:
    if value is sgl_constrain.Grammar:
        return ""  # made by Compiler; how is nobody's business
    written = str(inspect.signature(value)).replace("'", "").replace('"', "")
    written = written.replace("(self, ", "(").replace("(self)", "()").replace(repr(Limits()), "Limits()")
    return re.sub(r"ForwardRef\(([^()]+)\)", r"\1", written)  # named tuples, up to Python 3.13


def test_the_public_names_are_the_committed_ones() -> None:
    assert SNAPSHOT.read_text(encoding="utf-8").splitlines() == list(lines())


def test_everything_public_is_documented() -> None:
    undocumented = [
        name for name, value in public().items() if not isinstance(value, int) and not inspect.getdoc(value)
    ]
    assert undocumented == []


def test_importing_brings_no_engine_and_no_torch() -> None:
    heavy = {
        "torch",
        "transformers",
        "tokenizers",
        "vllm",
        "sglang",
        "pydantic",
        "msgspec",
        "gguf",
        "interegular",
    }
    command = (
        "import sys, sgl_constrain, sgl_constrain.transformers, sgl_constrain.structural\n"
        f"assert not {heavy!r} & set(sys.modules), sorted({heavy!r} & set(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", command], check=True, timeout=60)


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(lines()) + "\n", encoding="utf-8")
