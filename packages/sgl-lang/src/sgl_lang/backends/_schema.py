# SPDX-License-Identifier: Apache-2.0
"""JSON schemas as the vendors' structured outputs demand them: every object closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMED = ("properties", "$defs", "definitions")  # their keys are names, whatever they are called


def closed(schema: Any, *, all_required: bool) -> Any:
    """`schema` with no other properties than those it names; with `all_required`, with all of them.

    Whatever fits the result fits `schema` too: it only promises more.
    """
    if isinstance(schema, list):
        return [closed(each, all_required=all_required) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _NAMED and isinstance(value, Mapping):
            result[key] = {name: closed(each, all_required=all_required) for name, each in value.items()}
        elif key in ("const", "enum"):
            result[key] = value
        elif key not in ("default", "$schema"):  # neither takes them
            result[key] = closed(value, all_required=all_required)
    if isinstance(result.get("properties"), dict):
        result.setdefault("additionalProperties", False)
        if all_required:
            result["required"] = list(result["properties"])
    return result
