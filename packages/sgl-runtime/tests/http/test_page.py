# SPDX-License-Identifier: Apache-2.0
"""The page's files over HTTP: that they are all there, how they may be kept, and who gets them."""

from __future__ import annotations

import re
from base64 import b64encode
from importlib.resources import files

import pytest
from served import served

pytestmark = pytest.mark.anyio
FILES = sorted(file.name for file in files("sgl_runtime.http").joinpath("static").iterdir())
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


async def test_the_page_and_every_file_that_it_names_are_there() -> None:
    async with served() as server:
        page = await server.http.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        named = {"index.html", *re.findall(r'(?:href|src)="page/([^"]*)"', page.text)}
        for name in FILES:
            response = await server.http.get(f"/page/{name}")
            kind = response.headers["content-type"].partition(";")[0]
            assert kind.replace("application/javascript", "text/javascript") == TYPES[name.rpartition(".")[2]]
            imported = re.findall(r'from "\./([^"]*)"', response.text) if name.endswith(".js") else []
            assert {*imported} <= named, "or it would be found late"
    assert named == {*FILES}


@pytest.mark.parametrize("path", ["/", "/page/main.js"])
async def test_headers(path: str) -> None:
    async with served() as server:
        response = await server.http.get(path)
        head = await server.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert {**head.headers} == {**response.headers}
        again = await server.http.get(path, headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for method in ("POST", "PUT", "DELETE"):
            refused = await server.http.request(method, path)
            assert (refused.status_code, {*refused.headers["allow"].split(", ")}) == (405, {"GET", "HEAD"})
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-content-type-options"] == "nosniff"
    policy = dict(
        part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}


@pytest.mark.parametrize("path", ["/page/", "/page/nothing.js", "/page/../app.py", "/page/%2e%2e/app.py"])
async def test_nothing_else_is_there(path: str) -> None:
    async with served() as server:
        response = await server.http.get(path)
    assert response.status_code == 404
    assert set(response.json()["error"]) == {"message", "param"}


def basic(password: str, name: str = "me") -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(f"{name}:{password}".encode()).decode()}


class TestKey:
    """The browser's own question for a password opens the page."""

    async def test_a_browser_is_made_to_ask(self) -> None:
        async with served(api_key="a:ключ") as server:
            for path in ("/", "/page/main.js"):
                response = await server.http.get(path)
                assert response.status_code == 401
                assert response.headers["www-authenticate"] == 'Basic realm="sgl-runtime", charset="UTF-8"'
                assert (await server.http.get(path, headers=basic("a:ключ"))).status_code == 200
                assert (await server.http.get(path, headers=basic("a:ключ", name=""))).status_code == 200
                bearer = {"authorization": "Bearer a:ключ".encode()}
                assert (await server.http.get(path, headers=bearer)).status_code == 200  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "header",
        [
            basic("wrong")["authorization"],
            basic("")["authorization"],
            "Basic",
            "Basic secret",
            "Basic c2VjcmV0",
        ],
    )
    async def test_wrong(self, header: str) -> None:
        async with served(api_key="secret") as server:
            for path in ("/", "/page/main.js", "/v1/models"):
                headers = {"authorization": header, "x-requested-with": "page"}
                assert (await server.http.get(path, headers=headers)).status_code == 401

    async def test_what_a_browser_sends_by_itself_opens_nothing_for_the_pages_of_others(self) -> None:
        async with served(api_key="secret", cors_allow_origins=("https://a.example",)) as server:
            for path in ("/v1/models", "/metrics", "/flush_cache", "/pages"):
                response = await server.http.get(path, headers=basic("secret"))
                assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            ours = {**basic("secret"), "x-requested-with": "page"}
            assert (await server.http.get("/v1/models", headers=ours)).status_code == 200
            asked = {
                "origin": "https://b.example",
                "access-control-request-method": "POST",
                "access-control-request-headers": "x-requested-with",
            }
            assert (await server.http.options("/generate", headers=asked)).status_code == 400
            allowed = await server.http.options("/generate", headers={**asked, "origin": "https://a.example"})
            assert "access-control-allow-credentials" not in allowed.headers
