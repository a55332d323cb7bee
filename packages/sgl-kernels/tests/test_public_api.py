# SPDX-License-Identifier: Apache-2.0
"""What is public, compared with a committed list. A deliberate change is made in both."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import sgl_kernels
import sgl_kernels.attention

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def describe(module: ModuleType) -> Iterator[str]:
    for name in sorted(module.__all__):
        thing = getattr(module, name)
        if inspect.isclass(thing):
            yield name
            yield from (f"    {member}" for member in members(thing))
        else:
            yield f"{name}{inspect.signature(thing)}"


def members(thing: type) -> Iterator[str]:
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            default: Any = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            yield f"{field.name}: {field.type}{default}"
        return
    for name, annotation in vars(thing).get("__annotations__", {}).items():
        yield f"{name}: {annotation}"
    if not getattr(thing, "_is_protocol", False) and "__init__" in vars(thing):
        yield f"__init__{inspect.signature(thing.__init__)}"  # type: ignore[misc]
    for name, member in vars(thing).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            yield f"{name}{inspect.signature(member)}"


def test_the_public_api_is_the_committed_one() -> None:
    assert SNAPSHOT.read_text().splitlines() == list(describe(sgl_kernels))


def test_the_attention_names_are_the_same_in_both_places() -> None:
    for name in sgl_kernels.attention.__all__:
        assert getattr(sgl_kernels, name) is getattr(sgl_kernels.attention, name)
