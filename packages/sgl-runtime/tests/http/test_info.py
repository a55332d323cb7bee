# SPDX-License-Identifier: Apache-2.0
"""What the server says about itself; keys, flushing, aborting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import Script
from served import PATH, served, settle

from sgl_runtime import __version__
from sgl_runtime.http import info
from sgl_runtime.messages import Delta, Flush, Load

pytestmark = pytest.mark.anyio


async def test_health_asks_nothing_of_the_engine() -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        response = await server.http.get("/health")
        assert (response.status_code, response.content, script.received) == (200, b"", [])


async def test_health_generate_really_produces_a_token() -> None:
    script = Script(replicas=2)
    async with served(script) as server:
        assert (await server.http.get("/health_generate")).status_code == 200
    assert [generate.sampling.max_new_tokens for generate in script.generates] == [1, 1]


async def test_health_generate_says_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "PROBE_S", 0.01)
    async with served(Script(per_step=None)) as server:
        response = await server.http.get("/health_generate")
        assert response.status_code == 503
        assert "replica 0 has produced no token" in response.json()["error"]["message"]


async def test_model_info() -> None:
    async with served() as server:
        answer = (await server.http.get("/get_model_info")).json()
    template = answer.pop("chat_template")
    assert answer == {
        "model_path": str(PATH),
        "served_model_name": "tiny",
        "is_generation": True,
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "context_length": 512,
        "vocab_size": 260,
        "has_chat_template": True,
    }
    assert template["default_system"] is None
    assert template["roles"]["user"] == ["<|user|>", "<|end|>\n"]
    assert set(template["roles"]) == {"system", "user", "assistant"}
    assert isinstance(template["stop"], list)


async def test_model_info_without_a_template_or_tokenizer() -> None:
    async with served(skip_tokenizer_init=True) as server:
        answer = (await server.http.get("/get_model_info")).json()
        assert (answer["chat_template"], answer["has_chat_template"]) == (None, False)


async def test_server_args_tell_everything_but_the_key() -> None:
    async with served(api_key="secret", port=1234) as server:
        response = await server.http.get("/get_server_args", headers={"authorization": "Bearer secret"})
    assert response.json()["port"] == 1234
    assert "secret" not in response.text


async def test_server_info() -> None:
    script = Script(replicas=2, per_step=None)
    async with served(script) as server:
        reading = asyncio.create_task(server.post("/generate", {"text": "a"}))
        await settle()
        script.say(replica=1, load=Load(running=1, slots=9))
        await settle()
        answer = (await server.http.get("/server_info")).json()
        assert answer["version"] == __version__
        assert answer["uptime_seconds"] >= 0
        assert [replica["in_flight"] for replica in answer["replicas"]] == [1, 0]
        assert answer["replicas"][1]["load"]["slots"] == 9
        assert answer["replicas"][0]["capacity"]["context_length"] == 512
        await server.answer("/abort_request", {"abort_all": True})
        await reading


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_flush(method: str) -> None:
    script = Script(replicas=2)
    async with served(script) as server:
        response = await server.http.request(method, "/flush_cache")
        assert (response.status_code, response.json()) == (200, {"flushed": True})
        assert len([message for _, message in script.received if isinstance(message, Flush)]) == 2
        script.flushes = False
        response = await server.http.request(method, "/flush_cache")
        assert (response.status_code, "running" in response.text) == (409, True)


@pytest.mark.parametrize("body", [{"rid": "mine"}, {"abort_all": True}])
async def test_abort_answers_the_aborted_with_what_there_is(body: dict[str, Any]) -> None:
    script = Script(per_step=None)
    async with served(script) as server:
        reading = asyncio.create_task(server.answer("/generate", {"text": ["a", "b"], "rid": "mine"}))
        await settle()
        script.say(Delta(script.generates[0].rid, [65]))
        await settle()
        assert await server.answer("/abort_request", body) == {"aborted": 2}
        answers = await reading
        assert [answer["text"] for answer in answers] == ["A", ""]
        reason = {"type": "abort", "message": "aborted by request"}
        assert [answer["meta_info"]["finish_reason"] for answer in answers] == [reason, reason]
        assert len(script.aborts) == 2
        assert await server.answer("/abort_request", body) == {"aborted": 0}


class TestKey:
    @pytest.mark.parametrize(
        "path", ["/get_model_info", "/generate", "/v1/models", "/v1/completions", "/nowhere"]
    )
    @pytest.mark.parametrize(
        "header", [None, "Bearer wrong", "secret", "Bearer secret ", "bearer secret", "Bearer ключ"]
    )
    async def test_missing_or_wrong(self, path: str, header: str | None) -> None:
        headers = {} if header is None else {"authorization": header.encode()}
        async with served(api_key="secret") as server:
            response = await server.http.get(path, headers=headers)  # type: ignore[arg-type]
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert set(response.json()["error"]) >= {"message", "param"}

    async def test_right(self) -> None:
        async with served(api_key="ключ") as server:
            response = await server.http.get("/v1/models", headers={"authorization": "Bearer ключ".encode()})  # type: ignore[arg-type]
        assert response.status_code == 200

    async def test_only_health_is_exempt(self) -> None:
        async with served(api_key="secret") as server:
            assert (await server.http.get("/health")).status_code == 200
            for path in ("/health_generate", "/metrics", "/"):
                assert (await server.http.get(path)).status_code == 401
            assert (await server.http.options("/generate")).status_code == 401


async def test_unknown_routes_and_methods_answer_in_their_protocol() -> None:
    async with served() as server:
        for path, fields in (
            ("/nowhere", {"message", "param"}),
            ("/v1/nowhere", {"message", "type", "param", "code"}),
        ):
            response = await server.http.get(path)
            assert (response.status_code, set(response.json()["error"])) == (404, fields)
        response = await server.http.get("/generate")
        assert (response.status_code, set(response.headers["allow"].split(", "))) == (405, {"POST", "PUT"})


async def test_a_mistake_of_ours_is_a_500_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served() as server:

        def broken(*args: Any, **kwargs: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(server.api.client, "submit", broken)
        response = await server.post("/v1/completions", {"prompt": "a"})
        assert response.status_code == 500
        assert "ZeroDivisionError" in response.json()["error"]["message"]
