# SPDX-License-Identifier: Apache-2.0
"""The texts that an answer may be, as a structural tag: what `sgl_constrain.structural` turns into a
grammar.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Format: TypeAlias = dict[str, Any]  # what stands under "format" in a structural tag, or a part of it
Tools: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]  # names, and the schemas of their arguments


def text(value: str) -> Format:
    return {"type": "const_string", "value": value}


def json_value(schema: Mapping[str, Any] | bool) -> Format:
    return {"type": "json_schema", "json_schema": schema}


def in_sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def either(*elements: Format) -> Format:
    return {"type": "or", "elements": list(elements)}


def tag(begin: str, schema: Mapping[str, Any], end: str) -> Format:
    return {"type": "tag", "begin": begin, "content": json_value(schema), "end": end}


def separated(tags: Sequence[Format], separator: str, *, many: bool) -> Format:
    """One of the tags, or several."""
    return {
        "type": "tags_with_separator",
        "tags": list(tags),
        "separator": separator,
        "at_least_one": True,
        "stop_after_first": not many,
    }


def triggered(trigger: str, tags: Sequence[Format], *, many: bool) -> Format:
    """Free text, in which the trigger begins one of the tags."""
    return {
        "type": "triggered_tags",
        "triggers": [trigger],
        "tags": list(tags),
        "at_least_one": False,
        "stop_after_first": not many,
    }


def after_reasoning(begin: str | None, end: str, answer: Format) -> Format:
    """Reasoning up to `end`, then the answer. `begin`: what opens the reasoning, None if it is open
    already.
    """
    opened = {"type": "tag", "begin": begin or "", "content": {"type": "any_text"}, "end": end}
    return in_sequence(opened, {"type": "regex", "pattern": r"\s{0,2}"}, answer)
