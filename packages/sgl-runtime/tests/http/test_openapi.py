# SPDX-License-Identifier: Apache-2.0
"""The document at /openapi.json: it is one, it is whole, and what it says of the answers is so."""

from __future__ import annotations

from functools import partial
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from scripted import CAPACITY, Script, byte_tokenizer, vector_to
from served import EMBEDDINGS, SCORES, Served, served
from starlette.routing import Route

from sgl_runtime.http.app import build_app
from sgl_runtime.http.kinds import refuse
from sgl_runtime.http.openapi import document
from sgl_runtime.http.operation import operation_of
from sgl_runtime.messages import Capacity

pytestmark = pytest.mark.anyio


async def described(server: Served) -> Any:
    return (await server.http.get("/openapi.json")).json()


def reader(document: Any, schema: Any) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({**schema, "components": document["components"]})


async def test_the_document_is_openapi_with_and_without_a_key() -> None:
    async with served() as server:
        whole = await described(server)
        OpenAPIV31SpecValidator(whole).validate()
        assert "security" not in whole
        assert "401" not in whole["paths"]["/generate"]["post"]["responses"]
        assert "403" in whole["paths"]["/generate"]["post"]["responses"]
    async with served(api_key="secret") as server:
        assert (await server.http.get("/openapi.json")).status_code == 401
        secured = (await server.http.get("/openapi.json", headers={"x-api-key": "secret"})).json()
        OpenAPIV31SpecValidator(secured).validate()
        assert secured["security"] == [{"bearer": []}, {"header": []}]
        assert secured["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
        assert "401" in secured["paths"]["/generate"]["post"]["responses"]
        assert secured["paths"]["/health"]["get"]["security"] == []


async def test_every_route_is_described() -> None:
    """To a route that is not: put `operation` on its endpoint."""
    async with served() as server:
        routes = build_app(server.api).routes
        whole = document(routes, key=False)
    for route in routes:
        assert isinstance(route, Route)
        endpoint = route.endpoint.func if isinstance(route.endpoint, partial) else route.endpoint
        if endpoint is refuse:  # not for this model
            continue
        assert operation_of(endpoint) is not None, route.path
        assert {method.lower() for method in (route.methods or set()) - {"HEAD"}} <= set(
            whole["paths"][route.path_format]
        )
    operations = [entry for path in whole["paths"].values() for entry in path.values()]
    ids = [entry["operationId"] for entry in operations]
    assert len(set(ids)) == len(ids)
    assert all(len(entry["summary"]) < 80 for entry in operations)


async def test_every_shape_has_a_name_of_its_own() -> None:
    """msgspec calls two classes of one name by their modules, which no reader should have to."""
    async with served() as server:
        names = list((await described(server))["components"]["schemas"])
    assert [name for name in names if not name.isalpha()] == []


async def test_a_field_without_a_description_of_its_type_does_not_hide_in_the_document() -> None:
    """A sample of what comes from the readers: ranges, choices, and that other fields are refused."""
    async with served() as server:
        shapes = (await described(server))["components"]["schemas"]
    assert shapes["SamplingBody"]["properties"]["top_p"]["anyOf"][0] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
    }
    assert shapes["ChatBody"]["additionalProperties"] is False
    assert shapes["ChatBody"]["required"] == ["messages"]
    assert shapes["ChatBody"]["properties"]["service_tier"]["enum"] == [None, "auto", "default"]
    assert "user" in shapes["ChatMessage"]["properties"]["role"]["enum"]


@pytest.mark.parametrize(("capacity", "least"), [(CAPACITY, 11), (EMBEDDINGS, 5), (SCORES, 5)])
async def test_every_example_is_answered_as_described(capacity: Capacity, least: int) -> None:
    script = Script(vector=None if capacity.answers == "text" else vector_to)
    async with served(script, tokenizer=byte_tokenizer(), capacity=capacity) as server:
        whole = await described(server)
        seen = 0
        for path, methods in whole["paths"].items():
            for method, entry in methods.items():
                content = entry.get("requestBody", {}).get("content", {}).get("application/json", {})
                if "example" not in content:
                    continue
                reader(whole, content["schema"]).validate(content["example"])
                response = await server.http.request(method, path, json=content["example"])
                assert response.status_code == 200, (path, response.text)
                answer = entry["responses"]["200"]["content"]["application/json"]["schema"]
                reader(whole, answer).validate(response.json())
                seen += 1
    assert seen >= least


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/generate", "NativeError"),
        ("/v1/completions", "OpenAIError"),
        ("/v1/messages", "AnthropicError"),
    ],
)
async def test_errors_have_the_shape_of_their_protocol(path: str, shape: str) -> None:
    async with served() as server:
        whole = await described(server)
        schema = whole["paths"][path]["post"]["responses"]["400"]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{shape}"}
        for body in (b"{", b'{"typo": 1}'):
            refused = await server.post(path, body)
            assert refused.status_code == 400
            reader(whole, schema).validate(refused.json())
