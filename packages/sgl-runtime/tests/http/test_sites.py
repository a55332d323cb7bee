# SPDX-License-Identifier: Apache-2.0
"""What browsers say of the pages that make them ask, and who is let in for it."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import openai
import pytest
from browsing import chromium
from h2.events import StreamEnded
from http2_client import connected
from scripted import Script
from served import listening, served

from sgl_runtime.config import ServeConfig
from sgl_runtime.http.sites import own_hosts

pytestmark = pytest.mark.anyio
BODY = {"text": "hello", "sampling_params": {"temperature": 0}}
CROSS = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
OWN: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "same-origin", "origin": "http://localhost"},
    {"sec-fetch-site": "same-site", "origin": "http://localhost:8080"},
    {"sec-fetch-site": "none"},  # an address bar, an extension
    # A proxy that writes its own Host, in front of a page that the browser trusts.
    {"sec-fetch-site": "same-origin", "origin": "https://ui.example"},
    {"origin": "http://localhost"},
    {"origin": "http://LOCALHOST:8080"},
    {"origin": "http://ui.lan", "x-forwarded-host": "ui.lan"},
    {"origin": "http://ui.lan:8080", "x-forwarded-host": "inner, ui.lan:8080"},
    {"origin": "http://ui.lan", "forwarded": 'for=10.0.0.1;proto=http;host="ui.lan:80", for=10.0.0.2'},
    {"origin": "http://[fd00::1]:80", "x-forwarded-host": "[fd00::1]"},
]
FOREIGN = [
    CROSS,
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site", "origin": "http://ui.lan", "x-forwarded-host": "ui.lan"},
    {"origin": "https://evil.example"},
    {"origin": "http://evil.localhost"},
    {"origin": "http://ui.lan", "x-forwarded-host": "other.lan"},
    {"origin": "null"},
    {"origin": ""},
]


@pytest.mark.parametrize("headers", OWN)
async def test_own_pages_proxies_and_programs_are_let_in(headers: dict[str, str]) -> None:
    async with served() as server:
        assert (await server.http.post("/generate", json=BODY, headers=headers)).status_code == 200
        assert (await server.http.get("/flush_cache", headers=headers)).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
async def test_pages_of_others_change_nothing(headers: dict[str, str]) -> None:
    script = Script()
    async with served(script) as server:
        for method, path in (
            ("POST", "/generate"), ("POST", "/v1/chat/completions"), ("PUT", "/generate"), ("POST", "/none"),
            ("POST", "/abort_request"), ("DELETE", "/v1/files/x"), ("GET", "/flush_cache"),
            ("HEAD", "/flush_cache"),
        ):  # fmt: skip
            # As a form or a simple fetch sends it: the browser asks nobody before.
            simple = {"content-type": "text/plain", **headers}
            response = await server.http.request(method, path, content=b"{}", headers=simple)
            assert response.status_code == 403, (method, path)
            assert method == "HEAD" or "--cors-allow-origins" in response.json()["error"]["message"]
        assert script.received == []
        for path in ("/", "/health", "/v1/models"):  # a link leads here
            assert (await server.http.get(path, headers=headers)).status_code == 200


async def test_each_protocol_is_told_in_its_shape() -> None:
    async with served() as server:
        response = await server.http.post("/v1/chat/completions", json={}, headers=CROSS)
        error = response.json()["error"]
        assert (error["type"], error["param"], error["code"]) == ("permission_error", None, None)
        told = (await server.http.post("/v1/messages", json={}, headers=CROSS)).json()
        assert (told["type"], told["error"]["type"]) == ("error", "permission_error")
    async with (
        listening(Script()) as listener,
        openai.AsyncOpenAI(
            base_url=f"{listener.url}/v1", api_key="x", max_retries=0, default_headers=CROSS
        ) as gpt,
        anthropic.AsyncAnthropic(
            base_url=listener.url, api_key="x", max_retries=0, default_headers=CROSS
        ) as claude,
    ):
        with pytest.raises(openai.PermissionDeniedError):
            await gpt.completions.create(model="default", prompt="a")
        with pytest.raises(anthropic.PermissionDeniedError):
            await claude.messages.create(
                model="default", max_tokens=1, messages=[{"role": "user", "content": "a"}]
            )


async def test_origins_that_are_named_may_ask() -> None:
    async with served(cors_allow_origins=("https://a.example", "null")) as server:
        for origin, status in (("https://a.example", 200), ("null", 200), ("https://b.example", 403)):
            headers = {**CROSS, "origin": origin}
            response = await server.http.post("/generate", json=BODY, headers=headers)
            assert response.status_code == status
            allowed = response.headers.get("access-control-allow-origin")
            assert allowed == (origin if status == 200 else None)
    async with served(cors_allow_origins=("*",)) as server:
        assert (await server.http.post("/generate", json=BODY, headers=CROSS)).status_code == 200


async def test_a_body_on_its_way_is_read_before_the_refusal() -> None:
    async with listening(Script()) as server, httpx.AsyncClient(base_url=server.url) as client:
        for _ in range(2):  # on one connection
            response = await client.post("/generate", content=b"x" * 3_000_000, headers=CROSS)
            assert response.status_code == 403


@pytest.mark.parametrize("path", ["/v1/files", "/health", "/generate"])
async def test_a_name_that_somebody_else_has_chosen_leads_nowhere(path: str) -> None:
    """A page of evil.example whose name means 127.0.0.1 by now: the browser takes it for the same site."""
    script = Script()
    async with served(script) as server:
        for host in (
            "evil.example",
            "evil.example:30000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@b",
        ):
            headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
            method = "POST" if path == "/generate" else "GET"
            response = await server.http.request(method, path, headers=headers)
            assert response.status_code == 403, host
            assert "--allowed-hosts" in response.json()["error"]["message"]
        assert script.received == []
        for host in (
            "localhost",
            "LOCALHOST.:80",
            "a.localhost",
            "127.0.0.1:30000",
            "10.0.0.7",
            "[::1]:30000",
        ):
            assert (await server.http.get("/health", headers={"host": host})).status_code == 200, host


@pytest.mark.parametrize(
    ("config", "hosts"),
    [
        ({}, {"127.0.0.1"}),
        ({"host": "localhost"}, {"localhost"}),
        ({"host": "::1"}, {"::1"}),
        ({"allowed_hosts": ("LLM.lan",)}, {"127.0.0.1", "llm.lan"}),
        ({"allowed_hosts": ("*",)}, None),
        ({"host": "0.0.0.0"}, None),
        ({"host": "gpu.lan"}, None),
        ({"host": "0.0.0.0", "allowed_hosts": ("gpu.lan",)}, {"0.0.0.0", "gpu.lan"}),
        ({"api_key": "secret"}, None),
        ({"ssl_certfile": "cert.pem"}, None),
        ({"uds": "socket"}, None),
    ],
)
def test_which_servers_know_their_names(config: dict[str, Any], hosts: set[str] | None) -> None:
    assert own_hosts(ServeConfig(**config)) == hosts


async def test_a_name_that_is_allowed_is_answered() -> None:
    async with served(allowed_hosts=("llm.lan",)) as server:
        for host, status in (("llm.lan:8080", 200), ("LLM.LAN", 200), ("x.llm.lan", 403)):
            assert (await server.http.get("/health", headers={"host": host})).status_code == status


async def test_what_a_browser_says_of_pages() -> None:
    """The same, as a Chromium says it: the page of another server asks this one as any page can."""
    script = Script()
    ask = """async (url) => {
        const body = '{"text": "a"}';
        await fetch(url, {method: "POST", mode: "no-cors", body});  // text/plain: nobody is asked before
        const form = Object.assign(document.createElement("form"), {method: "POST", action: url});
        form.target = "there";
        document.body.append(Object.assign(document.createElement("iframe"), {name: "there"}), form);
        form.submit();
    }"""
    async with (
        chromium() as browser,
        listening(script) as server,
        listening(Script()) as other,
    ):
        page = await browser.new_page()
        statuses: list[int] = []
        page.on(
            "response",
            lambda response: statuses.append(response.status) if "generate" in response.url else None,
        )
        await page.goto(f"http://localhost:{other.port}/health")
        async with page.expect_response(lambda response: response.request.resource_type == "document"):
            await page.evaluate(ask, f"{server.url}/generate")
        assert statuses == [403, 403]
        assert script.generates == []
        await page.goto(f"{server.url}/health")
        same = "async () => (await fetch('/generate', {method: 'POST', body: '{\"text\": \"a\"}'})).status"
        assert await page.evaluate(same) == 200


async def test_over_http2_the_name_is_that_of_the_authority() -> None:
    async with listening(Script()) as server, connected(server.port) as client:
        for authority, status in (("localhost", "200"), ("evil.example", "403")):
            id = client.ask("/health", authority=authority)
            await client.until(StreamEnded, id)
            assert client.status(id) == status
