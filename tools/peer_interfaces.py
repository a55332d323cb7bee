# SPDX-License-Identifier: Apache-2.0
"""Writes down the interfaces of other engines that our adapters implement, out of those engines' wheels.

    python -m pip download --no-deps vllm sglang
    python tools/peer_interfaces.py vllm-*.whl sglang-*.whl

For each wheel `packages/sgl-constrain/tests/interfaces/NAME.json` gets names, bases, fields and parameters,
with the version: facts to test against where the engine, of hundreds of megabytes, is not installed. The
files are read, not imported.
"""

from __future__ import annotations

import argparse
import ast
import json
import zipfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "packages" / "sgl-constrain" / "tests" / "interfaces"

# What the adapters use of each engine, by module.
WANTED = {
    "vllm": {
        "vllm.v1.structured_output": ["XgrammarBackend"],
        "vllm.v1.structured_output.backend_types": [
            "StructuredOutputBackend", "StructuredOutputGrammar", "StructuredOutputOptions",
        ],
        "vllm.v1.structured_output.backend_xgrammar": ["validate_xgrammar_grammar"],
        "vllm.v1.structured_output.request": ["get_structured_output_key"],
        "vllm.config.structured_outputs": ["StructuredOutputsConfig"],
        "vllm.exceptions": ["VLLMValidationError"],
    },
    "sglang": {
        "sglang.srt.constrained.base_grammar_backend": [
            "BaseGrammarBackend", "BaseGrammarObject", "InvalidGrammarObject", "register_grammar_backend",
        ],
        "sglang.srt.constrained.reasoner_grammar_backend": ["ReasonerGrammarBackend"],
        "sglang.srt.parser.reasoning_parser": ["ReasoningParser"],
        "sglang.srt.runtime_context": ["get_serving"],
        "sglang.srt.server_args": ["add_grammar_backend_choices"],
        "sglang.srt.arg_groups.fields.serving": ["Serving"],
    },
}  # fmt: skip


def parameters(function: ast.FunctionDef) -> list[str]:
    """Names in order; `name=` has a default, `*` begins those that go by keyword."""
    arguments = function.args
    plain = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args)]
    first = len(plain) - len(arguments.defaults)
    found = [name + "=" * (i >= first) for i, name in enumerate(plain)]
    if arguments.vararg or arguments.kwonlyargs:
        found.append(f"*{arguments.vararg.arg if arguments.vararg else ''}")
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    found += [argument.arg + "=" * (default is not None) for argument, default in keywords]
    return found + ([f"**{arguments.kwarg.arg}"] if arguments.kwarg else [])


def described(node: ast.stmt) -> dict[str, Any]:
    if isinstance(node, ast.FunctionDef):
        return {"kind": "function", "parameters": parameters(node)}
    if not isinstance(node, ast.ClassDef):
        return {"kind": "value"}
    methods, fields = {}, []
    for member in node.body:
        if isinstance(member, ast.FunctionDef) and (
            not member.name.startswith("_") or member.name == "__init__"
        ):
            marks = sorted(ast.unparse(mark) for mark in member.decorator_list)
            if not any(mark.endswith(".setter") for mark in marks):
                methods[member.name] = {"marks": marks, "parameters": parameters(member)}
        elif isinstance(member, ast.AnnAssign):
            fields.append(ast.unparse(member.target))
        elif isinstance(member, ast.Assign):
            fields += [ast.unparse(target) for target in member.targets]
    return {
        "kind": "class",
        "bases": [ast.unparse(base) for base in node.bases],
        "marks": sorted(ast.unparse(mark) for mark in node.decorator_list),
        "fields": fields,
        "methods": methods,
    }


def names(source: str) -> dict[str, ast.stmt]:
    """What a module defines or imports at its top level, by name."""
    found: dict[str, ast.stmt] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: node for alias in node.names}
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


def interface(wheel: Path) -> tuple[str, dict[str, Any]]:
    distribution, version = wheel.name.split("-")[:2]
    modules = {}
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        for module, wanted in WANTED[distribution].items():
            path = module.replace(".", "/")
            file = f"{path}/__init__.py" if f"{path}/__init__.py" in files else f"{path}.py"
            found = names(archive.read(file).decode())
            missing = set(wanted) - set(found)
            if missing:
                raise SystemExit(f"{module} of {distribution} {version} has no {', '.join(sorted(missing))}")
            modules[module] = {name: described(found[name]) for name in wanted}
    return distribution, {"distribution": distribution, "version": version, "modules": modules}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("wheels", nargs="+", type=Path)
    FOLDER.mkdir(exist_ok=True)
    for wheel in parser.parse_args().wheels:
        name, found = interface(wheel)
        (FOLDER / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{name} {found['version']}: {sum(map(len, found['modules'].values()))} names")


if __name__ == "__main__":
    main()
