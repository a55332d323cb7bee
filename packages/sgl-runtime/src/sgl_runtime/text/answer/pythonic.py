# SPDX-License-Identifier: Apache-2.0
"""Calls written in Python: the answer begins with a list, `[f(a=1, b="x"), g()]`, of calls with named
literals.

A call is handed on when it is complete, as its values are JSON only then. `true`, `false` and `null` count as
Python's words. A list in which anything else stands is text from there on.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from sgl_runtime.errors import InvalidRequest
from sgl_runtime.text.answer.json_text import NotACall
from sgl_runtime.text.answer.pieces import Arguments, Call, Reading, Text
from sgl_runtime.text.answer.source import Source, Waiting
from sgl_runtime.text.answer.structure import Format, Tools, either, in_sequence, json_value, separated, text

START, END = "<|python_start|>", "<|python_end|>"
_NAME = re.compile(r"[\w.\-]*")
_PLAIN = re.compile(r"""[^"'\\()\[\]{},]*""")
_IN_SINGLE = re.compile(r"[^'\\]*")
_IN_DOUBLE = re.compile(r'[^"\\]*')
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_DEEPEST = 64
_KEYWORDS = {
    *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
    *("title", "description", "$schema", "strict", "examples", "default"),
}
_WORDS = {"true": True, "false": False, "null": None}


def read(source: Source, names: AbstractSet[str]) -> Reading:
    yield from source.blanks()
    yield from source.accept(START)
    yield from source.blanks()
    if (yield from source.accept("[")):
        yield from _read_calls(source, names)
    else:
        source.rewind()
    yield from source.rest(Text)


def _read_calls(source: Source, names: AbstractSet[str]) -> Reading:
    """Behind the bracket."""
    while True:
        try:
            name, values = yield from _read_call(source, names)
            arguments = json.dumps(values, ensure_ascii=False, allow_nan=False)
            arguments.encode()  # half a surrogate pair is no text
        except (NotACall, ValueError):
            source.rewind()
            return
        source.release()
        yield Call(name)
        yield Arguments(arguments)
        yield from source.blanks()
        more = yield from source.accept(",")
        yield from source.blanks()
        if (yield from source.accept("]")):
            yield from source.blanks()
            if (yield from source.accept(END)):
                yield from source.blanks()
            source.release()
            return
        if not more:
            source.rewind()
            return


def _read_call(source: Source, names: AbstractSet[str]) -> Waiting[tuple[str, dict[str, Any]]]:
    yield from source.blanks()
    name = yield from source.run(_NAME)
    if name not in names or not (yield from source.accept("(")):
        raise NotACall
    values: dict[str, Any] = {}
    while True:
        yield from source.blanks()
        if (yield from source.accept(")")):
            return name, values
        key = yield from source.run(_NAME)
        yield from source.blanks()
        if not key or key in values or not (yield from source.accept("=")):
            raise NotACall
        values[key] = _literal((yield from _read_expression(source)))
        if not (yield from source.accept(",")) and (yield from source.peek()) != ")":
            raise NotACall


def _read_expression(source: Source) -> Waiting[str]:
    """Up to the comma or the bracket that ends it, which are not read."""
    closers: list[str] = []
    text = ""
    while True:
        text += yield from source.run(_PLAIN)
        character = yield from source.peek()
        if not closers and character in (",", ")"):
            return text
        if character in ('"', "'"):
            text += yield from _read_string(source, character)
            continue
        if character in _CLOSERS:
            closers.append(_CLOSERS[character])
        elif not character or (character != "," and (not closers or closers.pop() != character)):
            raise NotACall
        if len(closers) > _DEEPEST:
            raise NotACall
        source.skip(1)
        text += character


def _read_string(source: Source, quote: str) -> Waiting[str]:
    source.skip(1)
    text = quote
    while True:
        text += yield from source.run(_IN_SINGLE if quote == "'" else _IN_DOUBLE)
        character = yield from source.peek()
        if not character:
            raise NotACall
        source.skip(1)
        text += character
        if character == quote:
            return text
        escaped = yield from source.peek()
        source.skip(len(escaped))
        text += escaped


def _literal(text: str) -> Any:
    try:
        return json.loads(text)  # which differs from Python in escapes
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd escapes
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError):
        raise NotACall from None
    return _value(tree.body)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return [_value(element) for element in elements]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case _:
            raise NotACall


def _key(node: ast.expr | None) -> str:
    match node:
        case ast.Constant(value=str() as key):
            return key
        case _:
            raise NotACall


def write(calls: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    return f"[{', '.join(f'{name}({_named(arguments)})' for name, arguments in calls)}]"


def _named(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def structure(tools: Tools, *, free: bool, many: bool) -> Format:
    tags = [
        {"type": "tag", "begin": f"{name}(", "content": _arguments(name, schema), "end": ")"}
        for name, schema in tools
    ]
    calls = in_sequence(text("["), separated(tags, ", ", many=many), text("]"))
    return either(calls, {"type": "regex", "pattern": r"[^\[\s<][\s\S]*"}) if free else calls


def _arguments(tool: str, schema: Mapping[str, Any]) -> Format:
    """The properties of an object's schema in their order, `a=1, b="x"`, their values as JSON."""
    properties = schema.get("properties", {})
    if unknown := schema.keys() - _KEYWORDS:
        raise InvalidRequest(
            f"tools: the parameters of {tool!r} have {min(unknown)!r}, which cannot be enforced in Python's"
            f" notation; leave it out, or start the server with another --tool-call-parser",
            param="tools",
        )
    items = []
    for key, value in properties.items():
        if not key.isidentifier():
            raise InvalidRequest(
                f"tools: the parameter {key!r} of {tool!r} is no name in Python; rename it, or start the"
                f" server with another --tool-call-parser",
                param="tools",
            )
        shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
        items.append(in_sequence(text(f"{key}="), json_value({**shared, **value})))
    required = [key in schema.get("required", ()) for key in properties]
    starts = [text("")] if not any(required) else []
    for first, item in enumerate(items):
        rest = [
            part if needed else {"type": "optional", "content": part}
            for other, needed in zip(items[first + 1 :], required[first + 1 :], strict=True)
            for part in [in_sequence(text(", "), other)]
        ]
        starts.append(in_sequence(item, *rest))
        if required[first]:
            break
    return either(*starts)
