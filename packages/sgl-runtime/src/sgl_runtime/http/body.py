# SPDX-License-Identifier: Apache-2.0
"""A request's bytes -> the struct that its endpoint expects, or a 4xx that names the field.

msgspec reports wrong types, ranges and unknown fields with their path. For bodies that are not JSON at all a
second, slow look finds the field at fault, since "byte 6" helps nobody.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from sgl_runtime.errors import InvalidRequest

T = TypeVar("T")

_MAX_EXPLAINED = 2**20  # bytes; above, finding the field would take too long
_LONGEST_PATH = 200  # characters of it are told back
_WITH_PATH = re.compile(r"(?P<what>.*) - at `(?:key` in `)?\$(?P<path>[^`]*)`$", re.DOTALL)
_FIELD = re.compile(r"(?:unknown|required) field `(?P<field>[^`]*)`")


async def read(request: Request, decoder: msgspec.json.Decoder[T], *, empty: bytes = b"") -> T:
    """The decoded body; one without bytes counts as `empty`. Raises InvalidRequest, ClientDisconnect, or
    HTTPException 415 for one that is compressed.
    """
    coding = request.headers.get("content-encoding", "identity").strip()
    if coding.lower() not in ("", "identity"):
        raise HTTPException(415, f"content-encoding {coding[:_LONGEST_PATH]!r}: send the body as it is")
    return decode(await _bytes(request) or empty, decoder)


def decode(data: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises InvalidRequest."""
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _malformed(data, error) from None
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def convert(values: Mapping[str, str], kind: type[T]) -> T:
    """The fields of a query or a form, which are texts, as `kind`. Raises InvalidRequest."""
    try:
        return msgspec.convert(dict(values), kind, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(str(error)) from None


async def _bytes(request: Request) -> bytes:
    """The whole body; how much that may be is for `limits` to know."""
    chunks: list[bytes] = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunks.append(message.get("body", b""))
        if not message.get("more_body", False):
            break
    return b"".join(chunks)


def _invalid(message: str) -> InvalidRequest:
    """msgspec's words, with the field in front."""
    found = _WITH_PATH.match(message)
    what, path = (found["what"], found["path"].lstrip(".")) if found else (message, "")
    if field := _FIELD.search(what):
        path = _readable(f"{path}.{field['field']}" if path else field["field"])
        kind = "unknown field" if "unknown" in what else "required field is missing"
        return InvalidRequest(f"{path}: {kind}", param=path)
    if not path:
        return InvalidRequest(f"the body is wrong: {what}")
    return InvalidRequest(f"{path}: {what[0].lower()}{what[1:]}", param=path)


def _malformed(data: bytes, error: Exception) -> InvalidRequest:
    if not data:
        return InvalidRequest("the body is empty; a JSON object is expected")
    if data.startswith(codecs.BOM_UTF8):
        return InvalidRequest(
            "the body begins with a byte order mark, which JSON does not have: leave it out"
        )
    path, why = _find_fault(data) if len(data) <= _MAX_EXPLAINED else (None, None)
    if path:
        path = _readable(path)
        return InvalidRequest(f"{path}: {why}", param=path)
    return InvalidRequest(f"the body is not valid JSON: {why or error}")


def _find_fault(data: bytes) -> tuple[str | None, str | None]:
    """The path of the first value that Python's laxer parser takes and JSON does not, and what is wrong with
    it.
    """
    broken_utf8 = False
    try:
        text = data.decode()
    except UnicodeDecodeError:
        broken_utf8 = True
        text = data.decode(errors="surrogateescape")
    try:
        path, value = _search(json.loads(text), "")
    except (ValueError, RecursionError):
        path, value = None, None
    if isinstance(value, float):
        return path, "NaN and infinities are not allowed, a finite number is expected"
    if broken_utf8:
        return path, "invalid UTF-8"
    if isinstance(value, str):
        return path, "half of a surrogate pair is not a character"
    return None, None


def _search(value: Any, path: str) -> tuple[str | None, Any]:
    if isinstance(value, float) and not math.isfinite(value):
        return path, value
    if isinstance(value, str) and not _is_text(value):
        return path, value
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = [(f"{path}.{key}" if path else key, child) for key, child in value.items()]
    elif isinstance(value, list):
        children = [(f"{path}[{index}]", child) for index, child in enumerate(value)]
    for where, child in children:
        found, fault = _search(child, where)
        if found is not None:
            return found, fault
    return None, None


def _readable(path: str) -> str:
    """A path may hold names that the client made up: as long as it likes, and no text."""
    return path[:_LONGEST_PATH].encode(errors="replace").decode()


def _is_text(value: str) -> bool:
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
