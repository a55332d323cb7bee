# SPDX-License-Identifier: Apache-2.0
"""`operation`: what an endpoint reads and answers, said at the endpoint; `/openapi.json` is made of it.

The shapes are the types that its code decodes into and builds, its title and description are its docstring.
Knows no route and no protocol.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

F = TypeVar("F", bound=Callable[..., Any])

NOTHING = ""  # the media type of an answer without a body


@dataclass(frozen=True, kw_only=True)
class Operation:
    """reads: what decodes the body, None if there is none. query, form: the type of the query's parameters,
    and of the fields of a form that come with a file. answers: the type of a 200's JSON, or a media type that
    is none. streams: the type of an event's JSON, if the answer may be a stream. refuses: statuses and why,
    beside those that every endpoint has. example: a body that is answered. optional: the body may be left
    out.
    """

    reads: msgspec.json.Decoder[Any] | None = None
    query: type[msgspec.Struct] | None = None
    form: type[msgspec.Struct] | None = None
    answers: Any
    streams: Any = None
    refuses: Mapping[int, str]
    example: Any = None
    optional: bool = False


def operation(
    *,
    reads: msgspec.json.Decoder[Any] | None = None,
    query: type[msgspec.Struct] | None = None,
    form: type[msgspec.Struct] | None = None,
    answers: Any,
    streams: Any = None,
    refuses: Mapping[int, str] | None = None,
    example: Any = None,
    optional: bool = False,
) -> Callable[[F], F]:
    """Describe the endpoint below; its docstring says in its first sentence what it does."""

    def describe(endpoint: F) -> F:
        assert endpoint.__doc__, "a docstring is an operation's title"
        endpoint.operation = Operation(  # type: ignore[attr-defined]
            reads=reads,
            query=query,
            form=form,
            answers=answers,
            streams=streams,
            refuses=refuses or {},
            example=example,
            optional=optional,
        )
        return endpoint

    return describe


def operation_of(endpoint: Callable[..., Any]) -> Operation | None:
    """None: nobody has described the endpoint."""
    found = getattr(endpoint, "operation", None)
    assert found is None or isinstance(found, Operation)
    return found


def title_of(endpoint: Callable[..., Any]) -> str:
    """The first sentence of its docstring, on one line."""
    text = " ".join((inspect.getdoc(endpoint) or "").split("\n\n")[0].split())
    return text.split(". ")[0].split(": ")[0].rstrip(".")
