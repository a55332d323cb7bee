# SPDX-License-Identifier: Apache-2.0
"""The four forms in which OpenAI's endpoints take prompts: a text, texts, token ids, lists of token ids."""

from __future__ import annotations

from typing import TypeAlias, cast

from sgl_runtime.engine.prepare import check_count
from sgl_runtime.errors import InvalidRequest

Prompts: TypeAlias = str | list[str | int | list[int]]


def prompts_of(given: Prompts, field: str) -> list[str | list[int]]:
    """One entry per prompt; an empty list is a prompt of no tokens. Raises InvalidRequest naming `field` for
    a mixture, and for too many.
    """
    if isinstance(given, str):
        return [given]
    kinds = set(map(type, given))
    if len(kinds) > 1:
        raise InvalidRequest(
            f"{field}: a list holds texts, token ids, or lists of token ids, not a mixture", param=field
        )
    if kinds <= {int}:
        return [cast("list[int]", given)]
    check_count(len(given), field)
    return cast("list[str | list[int]]", given)
