# SPDX-License-Identifier: Apache-2.0
"""Fields of a protocol that are not served: refused by name, unless their value asks for what is done anyway.

The type of such a field says so, to `refuse_unsupported` and to the document of the routes alike.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta

from sgl_runtime.errors import InvalidRequest


def unless(*neutral: Any) -> Meta:
    """`Annotated[Any, unless("auto")]`: null and "auto" are accepted, and change nothing."""
    return Meta(
        description="Not supported: leave it out.",
        extra={"neutral": neutral},
        extra_json_schema={"enum": [None, *neutral]},
    )


Unsupported: TypeAlias = Annotated[Any, unless()]


def refuse_unsupported(body: msgspec.Struct, where: str = "") -> None:
    """Raises InvalidRequest naming the first unsupported field that asks for something; `where`: the path of
    `body` with a dot.
    """
    for name, neutral in _unsupported(type(body)):
        value = getattr(body, name)
        if value is None or any(type(value) is type(one) and value == one for one in neutral):
            continue
        path = f"{where}{name}"
        raise InvalidRequest(f"{path}: this server does not support it; leave the field out", param=path)


@cache
def _unsupported(kind: type[msgspec.Struct]) -> list[tuple[str, tuple[Any, ...]]]:
    """The unsupported fields and their neutral values. A plain Any has none."""
    found: list[tuple[str, tuple[Any, ...]]] = []
    for field in msgspec.structs.fields(kind):
        if field.type is Any:
            found.append((field.name, ()))
        for meta in getattr(field.type, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.extra is not None and "neutral" in meta.extra:
                found.append((field.name, meta.extra["neutral"]))
    return found
