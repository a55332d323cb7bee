# SPDX-License-Identifier: Apache-2.0
"""`Case`: a grammar's source, texts of its language, and texts that are not.

Schemas lie as JSON beside this file, with instances; a text is an instance as `json.dumps` writes it, keys in
the order in which the schema names them, which every engine here expects.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from sgl_constrain.bench.patterns import PATTERNS

Kind = Literal["schema", "regex"]


@dataclass(frozen=True, slots=True)
class Case:
    """source: a pattern, or a schema as JSON text."""

    kind: Kind
    name: str
    source: str
    valid: tuple[str, ...]
    invalid: tuple[str, ...]


@cache
def cases() -> tuple[Case, ...]:
    """All of them, schemas first."""
    return (*_schemas(), *(Case("regex", *pattern) for pattern in PATTERNS))


def select(words: Sequence[str]) -> tuple[Case, ...]:
    """The cases of which a word is the kind or a part of the name; all of them without words."""
    return tuple(
        case for case in cases() if not words or any(w == case.kind or w in case.name for w in words)
    )


def _schemas() -> list[Case]:
    found: list[Case] = []
    for file in sorted(files(__package__).joinpath("schemas").iterdir(), key=lambda file: file.name):
        for name, described in json.loads(file.read_text(encoding="utf-8")).items():
            valid, invalid = (tuple(map(_text, described[key])) for key in ("valid", "invalid"))
            found.append(Case("schema", name, _text(described["schema"]), valid, invalid))
    return found


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
