# SPDX-License-Identifier: Apache-2.0
"""`GET /openapi.json`: the routes as an OpenAPI 3.1 document, made of the types that their code reads and
builds.

No endpoint is described here: each does so itself, with `operation`. Knows what all have in common: the media
types, the key, and the shapes of errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import metadata
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from sgl_runtime.http.api import Api
from sgl_runtime.http.auth import OPEN
from sgl_runtime.http.errors import SHAPES, json_response, protocol_of
from sgl_runtime.http.operation import NOTHING, Operation, operation, operation_of, title_of

_BODY_REFUSALS = {
    400: "The body is no JSON, or a field of it is wrong: the message names it and the remedy.",
    408: "The body has not arrived in time (`--body-timeout`).",
    413: "The body is too large (`--max-body-size`).",
    415: "The body is compressed.",
}
_UNKNOWN = "The key is missing or wrong."
_FOREIGN = "A page of another site asks, or the Host is none of this server's names."
_FAILURE = "The server cannot do it now (503, with `Retry-After` where it soon will), or has failed (500)."
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "The server's `--api-key`."},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
}


@dataclass(frozen=True)
class _Described:
    """One path's endpoint. `names`: the operation's, by method."""

    path: str
    names: dict[str, str]
    parameters: list[str]
    operation: Operation
    title: str
    description: str


@operation(answers=dict[str, Any])
async def openapi(api: Api, request: Request) -> Response:
    """This server's routes, as an OpenAPI 3.1 document."""
    state = request.app.state
    if not hasattr(state, "openapi"):  # made once: it takes as long as some tokens do
        state.openapi = document(request.app.routes, key=api.config.api_key is not None)
    return json_response(state.openapi)


def document(routes: Iterable[BaseRoute], *, key: bool) -> dict[str, Any]:
    """`key`: whether the server asks for one. Routes without an `operation` are left out."""
    described = list(_described(routes))
    schemas, components = _schemas(described)
    paths: dict[str, dict[str, Any]] = {}
    for one in described:
        for method, name in one.names.items():
            entry = _entry(one, schemas, asks=key and one.path not in OPEN)
            paths.setdefault(one.path, {})[method.lower()] = {"operationId": name, **entry}
    about = metadata("sgl-runtime")
    secured: dict[str, Any] = {"security": [{name: []} for name in _KEYS]} if key else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": about["Name"], "version": about["Version"], "description": about["Summary"]},
        **secured,
        "paths": paths,
        "components": {"schemas": components, **({"securitySchemes": _KEYS} if key else {})},
    }


def _described(routes: Iterable[BaseRoute]) -> Iterator[_Described]:
    for route in routes:
        assert isinstance(route, Route), "the route table holds routes only"
        endpoint = route.endpoint.func if isinstance(route.endpoint, partial) else route.endpoint
        found = operation_of(endpoint)
        if found is None:
            continue
        # Starlette adds HEAD to every GET. The first of several methods is the endpoint's own.
        methods = sorted((route.methods or set()) - {"HEAD"}, key=["POST", "GET", "PUT", "DELETE"].index)
        yield _Described(
            path=route.path_format,
            names={
                method: endpoint.__name__ + (f"_{method.lower()}" if i else "")
                for i, method in enumerate(methods)
            },
            parameters=list(route.param_convertors),
            operation=found,
            title=title_of(endpoint),
            description=inspect.getdoc(endpoint) or "",
        )


def _schemas(described: list[_Described]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The schema of each type that is mentioned, and what they have in common."""
    types = list(SHAPES.values())
    for one in described:
        reads = one.operation.reads
        types += [] if reads is None else [reads.type]
        types += [type for type in (one.operation.query, one.operation.form) if type is not None]
        types += [
            type for type in (one.operation.answers, one.operation.streams) if not isinstance(type, str)
        ]
    found, components = msgspec.json.schema_components(
        types, schema_hook=_annotation, ref_template="#/components/schemas/{name}"
    )
    schemas = dict(zip(types, found, strict=True))
    # Parameters stand one by one where they are taken, and the fields of a form beside the file.
    for one in described:
        for type in (one.operation.query, one.operation.form):
            if type is not None and "$ref" in schemas[type]:
                schemas[type] = components.pop(schemas[type]["$ref"].rpartition("/")[2])
    return schemas, components


def _annotation(type: Any) -> dict[str, Any]:
    if type is not object:
        raise NotImplementedError
    return {"description": "An annotation: it asks for nothing that is not done anyway."}


def _entry(one: _Described, schemas: dict[Any, Any], *, asks: bool) -> dict[str, Any]:
    """The operation object, but for its id."""
    described, protocol = one.operation, protocol_of(one.path)
    refuses = {**({401: _UNKNOWN} if asks else {}), 403: _FOREIGN, **described.refuses}
    entry: dict[str, Any] = {"tags": [protocol], "summary": one.title, "description": one.description}
    if one.path in OPEN:
        entry["security"] = []
    parameters = _parameters(one, schemas)
    if parameters:
        entry["parameters"] = parameters
    if described.reads is not None:
        refuses = {**_BODY_REFUSALS, **refuses}
        body = {"schema": schemas[described.reads.type]}
        if described.example is not None:
            body["example"] = described.example
        entry["requestBody"] = {"required": not described.optional, "content": {"application/json": body}}
    if described.form is not None:
        refuses = {**_BODY_REFUSALS, **refuses}
        fields = schemas[described.form]
        form = {
            **fields,
            "properties": {
                "file": {"type": "string", "format": "binary"},
                **{name: _not_null(schema) for name, schema in fields["properties"].items()},
            },
            "required": ["file", *fields.get("required", [])],
        }
        entry["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    if described.query is not None:
        refuses = {400: "A parameter is wrong.", **refuses}
    fault = {"application/json": {"schema": schemas[SHAPES[protocol]]}}
    entry["responses"] = {
        "200": _answer(described, schemas),
        **{str(status): {"description": why, "content": fault} for status, why in sorted(refuses.items())},
        "5XX": {"description": _FAILURE, "content": fault},
    }
    return entry


def _parameters(one: _Described, schemas: dict[Any, Any]) -> list[dict[str, Any]]:
    text = {"type": "string", "minLength": 1}
    of_path = [{"name": name, "in": "path", "required": True, "schema": text} for name in one.parameters]
    if one.operation.query is None:
        return of_path
    shape = schemas[one.operation.query]
    required = shape.get("required", [])
    return of_path + [
        {"name": name, "in": "query", "required": name in required, "schema": _not_null(schema)}
        for name, schema in shape["properties"].items()
    ]


def _not_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Without null, which neither a query nor a form can say."""
    others = [each for each in schema.get("anyOf", []) if each != {"type": "null"}]
    return others[0] if len(others) == 1 else {k: v for k, v in schema.items() if v is not None}


def _answer(described: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if not isinstance(described.answers, str):
        content["application/json"] = {"schema": schemas[described.answers]}
    elif described.answers != NOTHING:
        content[described.answers] = {"schema": {"type": "string"}}
    if described.streams is not None:
        data = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": schemas[described.streams],
        }
        event = {"type": "object", "properties": {"event": {"type": "string"}, "data": data}}
        content["text/event-stream"] = {"x-itemSchema": event}  # in OpenAPI 3.2 without the x
    return {"description": "The answer.", **({"content": content} if content else {})}
