# SPDX-License-Identifier: Apache-2.0
"""Calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`,
anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sgl_runtime.text.answer.json_text import NotACall, read_call
from sgl_runtime.text.answer.pieces import Reading, Text
from sgl_runtime.text.answer.source import Source
from sgl_runtime.text.answer.structure import Format, Tools, separated, tag, triggered

BEGIN, END = "<tool_call>", "</tool_call>"


def read(source: Source, names: AbstractSet[str]) -> Reading:
    while (yield from source.until(BEGIN, Text)):
        yield from source.accept(BEGIN)
        try:
            yield from source.blanks()
            yield from read_call(source, names, end=END)
        except NotACall:
            source.rewind()
            source.skip(len(BEGIN))
            yield Text(source.release())
            continue
        source.release()
        yield from source.blanks()
        if (yield from source.accept(END)):
            source.release()
        else:
            source.rewind()


def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return "\n".join(f"{BEGIN}\n{json.dumps(call, ensure_ascii=False)}\n{END}" for call in objects)


def structure(tools: Tools, *, free: bool, many: bool) -> Format:
    tags = [
        tag(f'{BEGIN}\n{{"name": {json.dumps(name)}, "arguments": ', schema, f"}}\n{END}")
        for name, schema in tools
    ]
    return triggered(BEGIN, tags, many=many) if free else separated(tags, "\n", many=many)
