# SPDX-License-Identifier: Apache-2.0
"""What is public, compared with a committed text: names, signatures, and every field of ServeConfig.

A deliberate change is made in both.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

import sgl_runtime

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def describe() -> Iterator[str]:
    for name in sorted(sgl_runtime.__all__):
        thing: Any = getattr(sgl_runtime, name)
        if isinstance(thing, str):
            yield name
        elif inspect.isclass(thing):
            yield name
            hints = get_type_hints(thing)
            for field in msgspec.structs.fields(thing):
                yield f"    {field.name}: {hints[field.name]} = {field.default!r}"
        else:
            parameters = inspect.signature(thing).parameters.values()
            yield f"{name}({', '.join(f'{p.name}: {p.annotation}' for p in parameters)})"


def test_the_public_api_is_the_committed_one() -> None:
    assert SNAPSHOT.read_text().splitlines() == list(describe())
