# SPDX-License-Identifier: Apache-2.0
"""Calls as Mistral's models write them, behind `[TOOL_CALLS]`: an array of `{"name": ..., "arguments":
{...}}`, or in newer ones `name[ARGS]{...}`, with the mark before each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sgl_runtime.text.answer.json_text import NotACall, read_arguments, read_call
from sgl_runtime.text.answer.pieces import Call, Reading, Text
from sgl_runtime.text.answer.source import Source
from sgl_runtime.text.answer.structure import Format, Tools, in_sequence, separated, tag, text, triggered

BEGIN, ID, ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[a-zA-Z0-9_.\-]*")


def read(source: Source, names: AbstractSet[str]) -> Reading:
    while (yield from source.until(BEGIN, Text)):
        yield from source.accept(BEGIN)
        try:
            yield from source.blanks()
            if (yield from source.accept("[")):
                yield from _read_array(source, names)
            elif (yield from source.peek()) == "{":
                yield from read_call(source, names, end=None)
            else:
                yield from _read_named(source, names)
        except NotACall:
            source.rewind()
            if (yield from source.accept(BEGIN)):
                yield Text(source.release())
            continue
        source.release()


def _read_array(source: Source, names: AbstractSet[str]) -> Reading:
    """Behind its bracket; read when it ends, or where it is no array of calls any more."""
    while True:
        yield from source.blanks()
        yield from read_call(source, names, end=None)
        source.release()
        yield from source.blanks()
        if not (yield from source.accept(",")):
            break
    if not (yield from source.accept("]")):
        source.rewind()


def _read_named(source: Source, names: AbstractSet[str]) -> Reading:
    name = yield from source.run(_NAME)
    if name not in names:
        raise NotACall
    if (yield from source.accept(ID)):
        yield from source.run(_NAME)
    yield from source.accept(ARGUMENTS)
    yield from source.blanks()
    if (yield from source.peek()) != "{":
        raise NotACall
    source.release()
    yield Call(name)
    yield from read_arguments(source, end=BEGIN)


def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    objects = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return f"{BEGIN}{json.dumps(objects, ensure_ascii=False)}"


def write_named(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """As the newer models have it."""
    return "".join(
        f"{BEGIN}{name}{ARGUMENTS}{json.dumps(arguments, ensure_ascii=False)}" for name, arguments in calls
    )


def structure(tools: Tools, *, free: bool, many: bool) -> Format:
    tags = [tag(f'{{"name": {json.dumps(name)}, "arguments": ', schema, "}") for name, schema in tools]
    # Older models write a space before the array.
    array = in_sequence({"type": "regex", "pattern": r" ?\["}, separated(tags, ", ", many=many), text("]"))
    if not free:
        return array
    return triggered(BEGIN, [{"type": "tag", "begin": BEGIN, "content": array, "end": ""}], many=False)


def structure_named(tools: Tools, *, free: bool, many: bool) -> Format:
    if not free:
        tags = [tag(f"{name}{ARGUMENTS}", schema, "") for name, schema in tools]
        return separated(tags, BEGIN, many=many)
    return triggered(
        BEGIN, [tag(f"{BEGIN}{name}{ARGUMENTS}", schema, "") for name, schema in tools], many=many
    )
