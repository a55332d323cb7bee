# SPDX-License-Identifier: Apache-2.0
"""Reasoning that a model marks: what stands between two marks at the beginning of its answer.

A mark further on is text: a model that explains marks does not think.
"""

from __future__ import annotations

from typing import NamedTuple

from sgl_runtime.text.answer.pieces import Reading, Reasoning
from sgl_runtime.text.answer.source import Source


class Marks(NamedTuple):
    """`always`: the model thinks before every answer and need not open what it closes."""

    begin: str
    end: str
    always: bool = False


MARKS: dict[str, Marks] = {
    "qwen3": Marks("<think>", "</think>"),
    "deepseek-r1": Marks("<think>", "</think>", always=True),
    "magistral": Marks("[THINK]", "[/THINK]"),
}


def find_marks(template: str) -> Marks | None:
    """Those that a chat template's source speaks of, None if of none."""
    for name in ("qwen3", "magistral"):
        if MARKS[name].end in template:
            return MARKS[name]
    return None


def read_reasoning(source: Source, marks: Marks, *, opened: bool) -> Reading:
    """`opened`: the prompt ends with the mark that begins reasoning."""
    yield from source.blanks()
    begun = yield from source.accept(marks.begin)
    if not begun and not opened and not marks.always:
        source.rewind()
        return
    source.release()
    yield from source.until(marks.end, Reasoning)
    yield from source.accept(marks.end)
    yield from source.blanks()
    source.release()
