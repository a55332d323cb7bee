# SPDX-License-Identifier: Apache-2.0
"""Files and batches, through the official client and a real socket; what lies on the disk is real, too."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch
from prometheus_client.parser import text_string_to_metric_families
from scripted import CAPACITY, Script, vector_to
from served import EMBEDDINGS, Listening, listening

from sgl_runtime.http.openai.batches import runner
from sgl_runtime.messages import Generate, Sampling

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
ENDED = ("completed", "failed", "cancelled", "expired")


class Client:
    """The official client, and what tests do with it."""

    def __init__(self, server: Listening, openai_client: openai.AsyncOpenAI) -> None:
        self.server = server
        self.openai = openai_client

    async def upload(self, content: bytes, name: str = "input.jsonl") -> str:
        return (await self.openai.files.create(file=(name, content), purpose="batch")).id

    async def batch(self, content: bytes, endpoint: Any = CHAT, window: Any = "24h", **more: Any) -> Batch:
        return await self.openai.batches.create(
            input_file_id=await self.upload(content), endpoint=endpoint, completion_window=window, **more
        )

    async def until(self, batch: Batch, ready: Callable[[Batch], bool]) -> Batch:
        async with asyncio.timeout(20):
            while not ready(batch := await self.openai.batches.retrieve(batch.id)):
                await asyncio.sleep(0.005)
        return batch

    async def ended(self, batch: Batch) -> Batch:
        return await self.until(batch, lambda batch: batch.status in ENDED)

    async def results(self, file: str | None) -> dict[str, Any]:
        """By custom_id; each once."""
        assert file is not None
        lines = [json.loads(line) for line in (await self.openai.files.content(file)).text.splitlines()]
        by_name = {line["custom_id"]: line for line in lines}
        assert len(by_name) == len(lines)
        return by_name


@asynccontextmanager
async def client_of(folder: Path, script: Script | None = None, **config: Any) -> AsyncIterator[Client]:
    async with (
        listening(script or Script(), api_key="secret", file_storage_path=str(folder), **config) as server,
        openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client,
    ):
        yield Client(server, client)


def line(name: str, content: str = "hello", url: str = CHAT, **body: Any) -> bytes:
    body = {"model": "default", "messages": [{"role": "user", "content": content}], "temperature": 0, **body}
    return json.dumps({"custom_id": name, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def text(result: Any) -> str:
    content: str = result["response"]["body"]["choices"][0]["message"]["content"]
    return content


async def test_a_batch(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        content = b"".join(line(f"r{i}", f"hello {i}") for i in range(40))
        batch = await client.batch(content, metadata={"a": "b"})
        assert (batch.status, batch.metadata, batch.endpoint) == ("validating", {"a": "b"}, CHAT)
        batch = await client.ended(batch)
        assert (batch.status, batch.error_file_id, batch.errors) == ("completed", None, None)
        assert batch.request_counts is not None and batch.request_counts.to_dict() == {
            "total": 40,
            "completed": 40,
            "failed": 0,
        }
        results = await client.results(batch.output_file_id)
        assert results.keys() == {f"r{i}" for i in range(40)}
        for i in range(40):
            assert f"HELLO {i}" in text(results[f"r{i}"])
            assert (results[f"r{i}"]["error"], results[f"r{i}"]["response"]["status_code"]) == (None, 200)
            openai.types.chat.ChatCompletion.model_validate(results[f"r{i}"]["response"]["body"])
        assert batch.output_file_id is not None
        file = await client.openai.files.retrieve(batch.output_file_id)
        assert (file.purpose, file.bytes) == (
            "batch_output",
            len((await client.openai.files.content(file.id)).content),
        )


async def test_what_a_batch_took_is_added_up(tmp_path: Path) -> None:
    content = b"".join(line(f"r{i}", f"hello {i % 2}") for i in range(4)) + line("bad", temperature=-1)
    async with client_of(tmp_path) as client:
        batch = await client.ended(await client.batch(content))
        bodies = [each["response"]["body"] for each in (await client.results(batch.output_file_id)).values()]
        each = [openai.types.CompletionUsage.model_validate(body["usage"]) for body in bodies]
        details = [usage.prompt_tokens_details for usage in each]
        cached = sum(detail.cached_tokens or 0 for detail in details if detail is not None)
        assert cached > 0 and batch.usage is not None
        assert batch.usage.to_dict() == {
            "input_tokens": sum(usage.prompt_tokens for usage in each),
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": sum(usage.completion_tokens for usage in each),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": sum(usage.total_tokens for usage in each),
        }
        asks = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": {"input": "hello"}}
        batch = await client.ended(await client.batch(json.dumps(asks).encode(), "/v1/responses"))
        (told,) = (await client.results(batch.output_file_id)).values()
        usage = openai.types.responses.ResponseUsage.model_validate(told["response"]["body"]["usage"])
        assert batch.usage is not None
        assert (batch.usage.input_tokens, batch.usage.output_tokens) == (
            usage.input_tokens,
            usage.output_tokens,
        )


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (["default", "served"], "served"),
        ([None], "served"),
        (["served", "gpt-4"], None),
        (["default", 5], "served"),
    ],
)
async def test_the_model_of_a_batch_is_that_of_all_its_lines(
    tmp_path: Path, models: list[Any], told: str | None
) -> None:
    lines = [line(str(i), model=model) for i, model in enumerate(models)]
    content = b"".join(lines).replace(b'"model": null, ', b"") + b"[]\n" + b'{"custom_id": "b", "body": 5}\n'
    async with client_of(tmp_path, served_model_name="served") as client:
        batch = await client.batch(content)
        assert batch.model is None
        assert (await client.ended(batch)).model == told


async def test_so_many_batches_may_be_under_way(tmp_path: Path) -> None:
    async with client_of(tmp_path, Script(per_step=None), max_queued_batches=2) as client:
        first, _ = [await client.batch(line("a")) for _ in range(2)]
        with pytest.raises(openai.RateLimitError, match=r"--max-queued-batches") as refused:
            await client.batch(line("a"))
        assert refused.value.status_code == 429
        await client.openai.batches.cancel(first.id)
        await client.ended(first)
        await client.batch(line("a"))
    async with client_of(tmp_path, Script(per_step=None), max_queued_batches=2) as client:
        with pytest.raises(openai.RateLimitError):  # what was under way is, after a restart, too
            await client.batch(line("a"))


async def test_batches_have_figures(tmp_path: Path) -> None:
    script = Script(per_step=None)
    async with client_of(tmp_path, script) as client:

        async def figures() -> dict[str, float]:
            http = client.server.url + "/metrics"
            async with httpx.AsyncClient(headers={"authorization": "Bearer secret"}) as asking:
                families = text_string_to_metric_families((await asking.get(http)).text)
            return {
                sample.name + "".join(f"[{label}]" for label in sample.labels.values()): sample.value
                for family in families
                for sample in family.samples
                if "batch" in sample.name or "file" in sample.name
            }

        before = await figures()
        assert before["sgl_batches[in_progress]"] == before["sgl_batch_lines_total[failed]"] == 0
        content = line("a") + line("b") + line("bad", temperature=-1)
        batch = await client.until(await client.batch(content), lambda b: b.status == "in_progress")
        await client.until(batch, lambda b: b.request_counts is not None and b.request_counts.failed == 1)
        assert (await figures())["sgl_batches[in_progress]"] == 1
        for generate in script.generates:
            script.say(*script.deltas(generate, 100))
        batch = await client.ended(batch)
        after = await figures()
        assert after["sgl_batches[in_progress]"] == 0
        assert after["sgl_batches_ended_total[completed]"] == 1
        assert (after["sgl_batch_lines_total[completed]"], after["sgl_batch_lines_total[failed]"]) == (2, 1)
        sizes = [file.bytes async for file in client.openai.files.list()]
        assert len(sizes) == 3 and after["sgl_file_storage_bytes"] == sum(sizes)


async def test_text_of_all_kinds_stays_on_its_line(tmp_path: Path) -> None:
    said = "a\u2028b\u2029c\x85d\x0b\x1ce\r\nf🙂"
    async with client_of(tmp_path) as client:
        batch = await client.ended(await client.batch(line("a", said)))
        assert said.upper() in text((await client.results(batch.output_file_id))["a"])


async def test_other_endpoints(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        one = json.dumps(
            {
                "custom_id": "a",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "default", "prompt": "hello", "temperature": 0},
            }
        ).encode()
        batch = await client.ended(await client.batch(one, "/v1/completions"))  # no newline at the end
        results = await client.results(batch.output_file_id)
        assert results["a"]["response"]["body"]["choices"][0]["text"] == "HELLO"
        two = one.replace(b"/v1/completions", b"/v1/responses").replace(b'"prompt"', b'"input"')
        batch = await client.ended(await client.batch(two, "/v1/responses"))
        results = await client.results(batch.output_file_id)
        assert "HELLO" in results["a"]["response"]["body"]["output"][0]["content"][0]["text"]


async def test_embeddings(tmp_path: Path) -> None:
    url = "/v1/embeddings"
    asks = {name: {"custom_id": name, "method": "POST", "url": url} for name in ("hello", "world", "bad")}
    inputs = {"hello": "hello", "world": "world", "bad": ""}
    lines = [json.dumps({**ask, "body": {"input": inputs[name]}}) for name, ask in asks.items()]
    content = "\n".join(lines).encode()
    async with client_of(tmp_path, Script(vector=vector_to), capacity=EMBEDDINGS) as client:
        batch = await client.ended(await client.batch(content, endpoint=url))
        results = await client.results(batch.output_file_id)
        for text in ("hello", "world"):
            generate = Generate("", list(text.encode()), Sampling())
            (data,) = results[text]["response"]["body"]["data"]
            assert data["embedding"] == pytest.approx(vector_to(generate), rel=1e-6)
        assert (await client.results(batch.error_file_id))["bad"]["response"]["status_code"] == 400
        batch = await client.ended(await client.batch(line("a")))
        (refused,) = (await client.results(batch.error_file_id)).values()
        assert url in refused["response"]["body"]["error"]["message"]


async def test_a_bad_line_fails_alone(tmp_path: Path) -> None:
    good = line("good")
    bad = {
        "negative": line("negative", temperature=-1),
        "unknown": line("unknown", colour="red"),
        "model": line("model", model="gpt-4"),
        "stream": line("stream", stream=True),
        "url": line("url", url="/v1/completions"),
        "method": line("method").replace(b"POST", b"GET"),
        "more": line("more").replace(b'"method"', b'"more": 1, "method"'),
        "good": line("good", "again"),
    }
    nameless = [b'{"custom_id": "cut', b"[]", b"\xff", line("").replace(b'""', b"7"), b"[" * 2000]
    nameless += [line(""), line("long", "x" * 10_000)]
    content = b"\n".join([good, *bad.values(), *nameless, b"  ", line("last")])
    async with client_of(tmp_path, max_body_size=5000) as client:
        batch = await client.ended(await client.batch(content))
        counts = batch.request_counts
        assert counts is not None
        assert (batch.status, counts.total, counts.completed) == ("completed", 2 + 8 + 7, 2)
        assert counts.failed == counts.total - counts.completed
        assert (await client.results(batch.output_file_id)).keys() == {"good", "last"}
        assert batch.error_file_id is not None
        lines = (await client.openai.files.content(batch.error_file_id)).text.splitlines()
        errors = [json.loads(line) for line in lines]
        told = {error["custom_id"]: error for error in errors if error["custom_id"]}
        assert told.keys() == bad.keys()
        # What a client on the line is told.
        async with httpx.AsyncClient(headers={"authorization": "Bearer secret"}) as http:
            for name in ("negative", "unknown", "model"):
                response = told[name]["response"]
                said = await http.post(client.server.url + CHAT, json=json.loads(bad[name])["body"])
                assert (response["status_code"], response["body"]) == (said.status_code, said.json())
        assert told["stream"]["response"]["body"]["error"]["param"] == "stream"
        messages = {name: (error["error"] or {}).get("message", "") for name, error in told.items()}
        assert "url: the endpoint of the batch is /v1/chat/completions" in messages["url"]
        assert "method" in messages["method"] and "unknown field" in messages["more"]
        assert "an earlier line has the same" in messages["good"]
        others = [error["error"]["message"] for error in errors if not error["custom_id"]]
        assert len(others) == 7 and all(message.startswith("line ") for message in others)
        assert "more than 5000 bytes (--max-body-size)" in others[-1]


async def test_what_is_answered_is_not_answered_again_after_a_restart(tmp_path: Path) -> None:
    content = b"".join(line(f"r{i}", f"number {i}") for i in range(20))
    first = Script(per_step=None)
    async with client_of(tmp_path, first) as client:
        batch = await client.batch(content)
        async with asyncio.timeout(5):
            while len(first.generates) < 6:
                await asyncio.sleep(0.001)
        for generate in first.generates[:3]:
            first.say(*first.deltas(generate, 100))
        batch = await client.until(
            batch, lambda b: b.request_counts is not None and b.request_counts.completed == 3
        )
        assert batch.status == "in_progress"
    second = Script()
    async with client_of(tmp_path, second) as client:
        batch = await client.ended(batch)
        assert len(second.generates) == 17
        asked = {bytes(generate.tokens) for generate in [*first.generates[:3], *second.generates]}
        assert len(asked) == 20
        results = await client.results(batch.output_file_id)
        assert {name: f"NUMBER {name[1:]}" in text(result) for name, result in results.items()} == {
            f"r{i}": True for i in range(20)
        }


async def test_a_crash_in_the_middle_of_writing_leaves_whole_lines(tmp_path: Path) -> None:
    content = b"".join(line(f"r{i}", f"number {i}") for i in range(8))
    script = Script(per_step=None)
    async with client_of(tmp_path / "one", script) as client:
        batch = await client.batch(content)
        async with asyncio.timeout(5):
            while len(script.generates) < 6:
                await asyncio.sleep(0.001)
        for generate in script.generates[:3]:
            script.say(*script.deltas(generate, 100))
        await client.until(batch, lambda b: b.request_counts is not None and b.request_counts.completed == 3)
        shutil.copytree(tmp_path / "one", tmp_path / "two")  # what a power cut would leave
    (output,) = [
        path for path in (tmp_path / "two/files").iterdir() if b"chat.completion" in path.read_bytes()
    ]
    with output.open("ab") as file:
        file.write(b'{"id": "batch_req_1", "custom_id": "r5", "resp')
    (tmp_path / "two/files/file-stray").write_bytes(b"of no record")
    (tmp_path / "two/uploads/stray").write_bytes(b"of no request")
    async with client_of(tmp_path / "two") as client:
        batch = await client.ended(batch)
        assert (await client.results(batch.output_file_id)).keys() == {f"r{i}" for i in range(8)}
    assert not (tmp_path / "two/files/file-stray").exists()
    assert not (tmp_path / "two/uploads/stray").exists()


async def test_cancel(tmp_path: Path) -> None:
    script = Script(per_step=None)
    async with client_of(tmp_path, script) as client:
        batch = await client.batch(b"".join(line(f"r{i}") for i in range(20)))
        async with asyncio.timeout(5):
            while len(script.generates) < 6:
                await asyncio.sleep(0.001)
        script.say(*script.deltas(script.generates[0], 100))
        await client.until(batch, lambda b: b.request_counts is not None and b.request_counts.completed == 1)
        with pytest.raises(openai.ConflictError, match="cancel that first"):
            await client.openai.files.delete(batch.input_file_id)
        assert (await client.openai.batches.cancel(batch.id)).status == "cancelling"
        batch = await client.ended(batch)
        assert (batch.status, batch.cancelled_at is not None) == ("cancelled", True)
        assert set(script.aborts) == {generate.rid for generate in script.generates[1:]}
        assert len(await client.results(batch.output_file_id)) == 1
        errors = await client.results(batch.error_file_id)
        assert len(errors) == 19
        assert {error["error"]["code"] for error in errors.values()} == {"batch_cancelled"}
        counts = batch.request_counts
        assert counts is not None and (counts.total, counts.completed, counts.failed) == (20, 1, 19)
        with pytest.raises(openai.ConflictError, match="it is cancelled"):
            await client.openai.batches.cancel(batch.id)
        with pytest.raises(openai.NotFoundError):
            await client.openai.batches.cancel("batch_nothing")
        await client.openai.files.delete(batch.input_file_id)


async def test_a_batch_that_is_not_done_in_time_expires(tmp_path: Path) -> None:
    script = Script(per_step=None)
    async with client_of(tmp_path, script) as client:
        batch = await client.batch(line("a") + line("b"), window="1s")
        assert batch.expires_at == batch.created_at + 1
        batch = await client.ended(batch)
        errors = await client.results(batch.error_file_id)
        assert (batch.status, batch.output_file_id, errors.keys()) == ("expired", None, {"a", "b"})
        assert {error["error"]["code"] for error in errors.values()} == {"batch_expired"}


@pytest.mark.parametrize(
    ("content", "code"), [(b"", "empty_file"), (b"\n \n", "empty_file"), (line("a") * 4, "too_many_lines")]
)
async def test_a_file_that_is_no_batch_fails_as_a_whole(tmp_path: Path, content: bytes, code: str) -> None:
    async with client_of(tmp_path, max_batch_lines=3) as client:
        batch = await client.ended(await client.batch(content))
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("failed", None, None)
        assert batch.errors is not None and batch.errors.data is not None
        assert [error.code for error in batch.errors.data] == [code]


async def test_what_cannot_be_a_batch_is_refused(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        file = await client.upload(line("a"))
        create: Any = client.openai.batches.create
        right = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
        for wrong in (
            {"endpoint": "/v1/moderations"},
            {"completion_window": "soon"},
            {"metadata": {str(i): "" for i in range(17)}},
            {"metadata": {"a": "x" * 513}},
            {"output_expires_after": {"anchor": "created_at", "seconds": 5}},
            {"extra_body": {"colour": "red"}},
        ):
            with pytest.raises(openai.BadRequestError) as bad:
                await create(**{**right, **wrong})
            assert (bad.value.param or "").split(".")[0].split("[")[0] in {*wrong, "colour"}
        with pytest.raises(openai.NotFoundError) as missing:
            await create(**{**right, "input_file_id": "../store.sqlite3"})
        assert missing.value.param == "input_file_id"
        batch = await client.ended(await create(**right))
        with pytest.raises(openai.BadRequestError, match="batch_output"):
            await create(**{**right, "input_file_id": batch.output_file_id})


async def test_lists_come_in_pages(tmp_path: Path) -> None:
    async with client_of(tmp_path) as client:
        batches = [await client.ended(await client.batch(line(str(i)))) for i in range(5)]
        listed = [batch.id async for batch in client.openai.batches.list(limit=2)]
        assert listed == [batch.id for batch in reversed(batches)]
        inputs = [batch.input_file_id for batch in batches]
        outputs = [batch.output_file_id for batch in batches]
        files = client.openai.files
        assert [file.id async for file in files.list(limit=3, purpose="batch")] == inputs[::-1]
        assert [file.id async for file in files.list(limit=2, purpose="batch_output", order="asc")] == outputs
        assert len([file async for file in files.list()]) == 10
        page = await client.openai.batches.list(limit=5)
        assert not page.has_more
        for wrong in (
            {"after": "batch_nothing"},
            {"limit": 0},
            {"limit": 101},
            {"extra_query": {"colour": "red"}},
        ):
            with pytest.raises(openai.BadRequestError):
                await client.openai.batches.list(**wrong)  # type: ignore[arg-type]


# -- beside the traffic -------------------------------------------------------------------------------------


async def test_lines_leave_room_for_who_comes(tmp_path: Path) -> None:
    script = Script(per_step=None)
    async with client_of(tmp_path, script, max_queued_requests=1) as client:
        assert CAPACITY.rows == 8
        batch = await client.batch(b"".join(line(f"r{i}") for i in range(30)))
        ask = client.openai.completions.create
        asked: list[asyncio.Task[Any]] = []
        answered: set[str] = set()

        async def settled(count: int) -> list[Any]:
            """Those under way, when there are so many; and no more come."""
            async with asyncio.timeout(5):
                while len(open := [g for g in script.generates if g.rid not in answered]) < count:
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.12)
            return open

        lines = await settled(6)
        assert len(lines) == 6
        asked += [asyncio.create_task(ask(model="default", prompt="hi")) for _ in range(3)]
        # One of the three waits, as nine are more than rows; and lines that end are not replaced.
        under_way = await settled(9)
        assert len(under_way) == 9
        for generate in lines[:3]:
            answered.add(generate.rid)
            script.say(*script.deltas(generate, 100))
        assert len(await settled(6)) == 6
        for generate in under_way[6:]:
            answered.add(generate.rid)
            script.say(*script.deltas(generate, 100))
        await asyncio.gather(*asked)
        assert len(await settled(6)) == 6
        script.per_step = 100
        for generate in [g for g in script.generates if g.rid not in answered]:
            script.say(*script.deltas(generate, 100))
        batch = await client.ended(batch)
        assert batch.request_counts is not None and batch.request_counts.completed == 30


async def test_a_full_line_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples a line, where one row and no place to wait is left."""
    monkeypatch.setattr(runner, "_RETRY_S", 0.01)
    script = Script(per_step=None)
    async with client_of(tmp_path, script, max_queued_requests=1) as client:
        ask = client.openai.completions.create
        asked = [asyncio.create_task(ask(model="default", prompt="hi")) for _ in range(5)]
        async with asyncio.timeout(5):
            while len(script.generates) < 5:
                await asyncio.sleep(0.001)
        batch = await client.batch(line("many", n=6) + line("too-many", n=10))
        await asyncio.sleep(0.2)
        assert len(script.generates) == 5
        script.per_step = 100
        for generate in list(script.generates):
            script.say(*script.deltas(generate, 100))
        await asyncio.gather(*asked)
        batch = await client.ended(batch)
        assert (await client.results(batch.output_file_id)).keys() == {"many"}
        # More than the server ever takes at once.
        errors = await client.results(batch.error_file_id)
        assert "--max-queued-requests" in errors["too-many"]["error"]["message"]


# -- a disk that is full ------------------------------------------------------------------------------------


class Disk:
    """What `os.fsync` says, on which everything that is kept depends; and who asked it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.threads: set[int] = set()
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self.threads.add(threading.get_ident())
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


async def test_on_a_full_disk_a_batch_waits_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    disk = Disk(monkeypatch)
    monkeypatch.setattr(runner, "_AGAIN_S", 0.01)
    script = Script(per_step=None)
    async with client_of(tmp_path, script) as client:
        batch = await client.batch(b"".join(line(f"r{i}", f"number {i}") for i in range(12)))
        async with asyncio.timeout(5):
            while len(script.generates) < 6:
                await asyncio.sleep(0.001)
        disk.full = True
        for generate in script.generates[:6]:
            script.say(*script.deltas(generate, 100))
        async with asyncio.timeout(5):
            while "No space left on device" not in caplog.text:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.1)
        assert len(script.generates) == 6, "answers that cannot be kept hold new lines up"
        batch = await client.openai.batches.retrieve(batch.id)
        assert batch.status == "in_progress"
        assert batch.request_counts is not None and batch.request_counts.completed == 0
        with pytest.raises(openai.InternalServerError) as full:
            await client.upload(line("a"))
        assert (full.value.status_code, full.value.type) == (507, "storage_error")
        assert "No space left on device" in str(full.value)
        disk.full = False
        script.per_step = 100
        batch = await client.ended(batch)
        results = await client.results(batch.output_file_id)
        assert all(f"NUMBER {name[1:]}" in text(result) for name, result in results.items())
        assert (len(results), len(script.generates)) == (12, 12)
    assert threading.get_ident() not in disk.threads
    assert list((tmp_path / "uploads").iterdir()) == []


async def test_a_folder_is_one_servers(tmp_path: Path) -> None:
    async with client_of(tmp_path) as one:
        file = await one.upload(line("a"))
        async with client_of(tmp_path) as two:
            with pytest.raises(openai.InternalServerError, match="another server uses"):
                await two.openai.files.list()
    async with client_of(tmp_path) as three:
        assert (await three.openai.files.content(file)).content == line("a")


async def test_a_server_that_keeps_nothing_makes_no_folder(tmp_path: Path) -> None:
    async with client_of(tmp_path / "none") as client:
        await client.openai.completions.create(model="default", prompt="a")
    assert not (tmp_path / "none").exists()
