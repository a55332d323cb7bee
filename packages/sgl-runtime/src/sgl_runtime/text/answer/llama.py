# SPDX-License-Identifier: Apache-2.0
"""Calls as Llama 3 writes them: the answer is `{"name": ..., "parameters": {...}}`, or several with `;`
between.

`<|python_tag|>` may open them, and does so anywhere; without it they are looked for at the beginning only,
since an answer may well speak of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sgl_runtime.text.answer.json_text import NotACall, read_call
from sgl_runtime.text.answer.pieces import Piece, Reading, Text
from sgl_runtime.text.answer.source import Source, Waiting
from sgl_runtime.text.answer.structure import Format, Tools, either, separated, tag

TAG = "<|python_tag|>"


def read(source: Source, names: AbstractSet[str]) -> Reading:
    yield from source.blanks()
    if (yield from source.peek()) == "{":
        yield from _read_calls(source, names)
    source.rewind()
    while (yield from source.until(TAG, Text)):
        yield from source.accept(TAG)
        yield from source.blanks()
        if not (yield from _read_calls(source, names)):
            source.rewind()
            source.skip(len(TAG))
            yield Text(source.release())


def _read_calls(source: Source, names: AbstractSet[str]) -> Generator[Piece | None, None, bool]:
    """One after another. False: there is none, and nothing is read but what is held."""
    found = False
    while True:
        try:
            yield from read_call(source, names, end=None)
        except NotACall:
            source.rewind()
            return found
        found = True
        source.release()
        yield from _read_separator(source)


def _read_separator(source: Source) -> Waiting[None]:
    yield from source.blanks()
    for separator in (";", ",", TAG):
        if (yield from source.accept(separator)):
            break
    yield from source.blanks()


def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    objects = [{"name": name, "parameters": arguments} for name, arguments in calls]
    return "; ".join(json.dumps(call, ensure_ascii=False) for call in objects)


def structure(tools: Tools, *, free: bool, many: bool) -> Format:
    tags = [tag(f'{{"name": {json.dumps(name)}, "parameters": ', schema, "}") for name, schema in tools]
    calls = separated(tags, "; ", many=many)
    # A text in which no call can be: one does not begin like this.
    return either(calls, {"type": "regex", "pattern": r"[^{\s<][\s\S]*"}) if free else calls
