# SPDX-License-Identifier: Apache-2.0
"""The four forms in which OpenAI's endpoints take prompts: a text, texts, token ids, lists of token ids."""

from __future__ import annotations

from typing import TypeAlias

from sgl_runtime.engine.prepare import check_count
from sgl_runtime.errors import InvalidRequest

Prompts: TypeAlias = str | list[str | int | list[int]]


def prompts_of(given: Prompts, field: str) -> list[str | list[int]]:
    """One entry per prompt; an empty list is a prompt of no tokens. Raises InvalidRequest naming `field` for
    a mixture, and for too many.
    """
    if isinstance(given, str):
        return [given]
    numbers = [entry for entry in given if isinstance(entry, int)]
    texts = [entry for entry in given if isinstance(entry, str)]
    lists = [entry for entry in given if isinstance(entry, list)]
    if (bool(numbers), bool(texts), bool(lists)).count(True) > 1:
        raise InvalidRequest(
            f"{field}: a list holds texts, token ids, or lists of token ids, not a mixture", param=field
        )
    check_count(len(texts) + len(lists), field)
    return [*texts] or [*lists] or [numbers]
